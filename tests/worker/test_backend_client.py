"""One backend asked over real sockets: each way to fail has its own name, and none is worse than a name."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest

from domain.backends import BackendSpec
from tests.support.scripted_backend import (
    ScriptedBackend,
    answer,
    closed_port,
    scripted_backend,
    speaking_server,
)
from worker.backend_client import MAX_BODY_BYTES, BackendAnswer, BackendClient, ConnectionWatch, PollFailed


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedBackend]:
    async with scripted_backend() as running:
        yield running


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    return ssl.create_default_context()


async def ask(url: str, tls: ssl.SSLContext, *, timeout_s: float = 5.0, **fields: object) -> BackendAnswer:
    spec = BackendSpec.model_validate({"name": "a", "base_url": url, **fields})
    client = BackendClient(spec, timeout_s=timeout_s, tls=tls)
    try:
        return await client.ask()
    finally:
        await client.aclose()


async def failure(url: str, tls: ssl.SSLContext, *, timeout_s: float = 5.0, **fields: object) -> str:
    with pytest.raises(PollFailed) as caught:
        await ask(url, tls, timeout_s=timeout_s, **fields)
    return caught.value.kind


async def test_the_token_goes_with_every_question(backend: ScriptedBackend, tls: ssl.SSLContext) -> None:
    await ask(backend.url, tls, auth_token="t", auth_header="X-API-Key", auth_scheme="")

    assert {path for path, _ in backend.requests} == {"/api/version", "/api/tags", "/api/ps"}
    assert all(headers["x-api-key"] == "t" for _, headers in backend.requests)


async def test_no_compression_is_asked_for(backend: ScriptedBackend, tls: ssl.SSLContext) -> None:
    await ask(backend.url, tls)

    assert {headers["accept-encoding"] for _, headers in backend.requests} == {"identity"}


async def test_the_path_of_the_base_address_is_kept(backend: ScriptedBackend, tls: ssl.SSLContext) -> None:
    backend.scripts = {f"/ollama{path}": script for path, script in backend.scripts.items()}

    assert (await ask(backend.url + "/ollama", tls)).version == "0.33.0"


async def test_proxies_of_the_environment_are_not_used(
    backend: ScriptedBackend, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    assert (await ask(backend.url, tls)).version == "0.33.0"


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (answer({}, status=401), "unauthorized"),
        (answer({}, status=403), "unauthorized"),
        (answer({}, status=404), "http_404"),
        (answer({}, status=503), "http_503"),
        (answer({}, status=307, headers={"location": "http://169.254.169.254/"}), "redirect"),
        (answer({}, status=304), "redirect"),
        (answer(b"Ollama is running"), "bad_answer"),
        (answer(b"\x1f\x8b", headers={"content-encoding": "gzip"}), "bad_answer"),
        (answer(b" " * (MAX_BODY_BYTES + 1)), "bad_answer"),
        (b"nonsense\r\n\r\n", "closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{", "timeout"),
        (None, "timeout"),
    ],
)
async def test_each_failure_has_its_name(
    backend: ScriptedBackend, tls: ssl.SSLContext, script: bytes | None, kind: str
) -> None:
    backend.scripts["/api/tags"] = script

    assert await failure(backend.url, tls, timeout_s=0.5 if kind == "timeout" else 5.0) == kind


async def test_a_closed_port_is_connect_refused(tls: ssl.SSLContext) -> None:
    async with closed_port() as port:
        assert await failure(f"http://127.0.0.1:{port}", tls) == "connect_refused"
        assert await failure(f"http://localhost:{port}", tls) == "connect_refused"


async def test_a_plain_server_behind_https_is_a_tls_failure(tls: ssl.SSLContext) -> None:
    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    async with speaking_server(refuse) as url:
        assert await failure(url.replace("http:", "https:"), tls) == "tls"


async def test_a_handshake_cut_short_leaves_no_connection_behind(tls: ssl.SSLContext) -> None:
    hung_up = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()
        hung_up.set()

    async with speaking_server(listen) as url:
        assert await failure(url.replace("http:", "https:"), tls, timeout_s=0.3) == "timeout"
        async with asyncio.timeout(5):
            await hung_up.wait()


async def test_a_name_that_does_not_resolve_is_a_dns_failure(tls: ssl.SSLContext) -> None:
    assert await failure("http://backend.invalid", tls) == "dns"


@pytest.mark.parametrize("script", [answer({}, status=500), answer(b"nonsense"), None])
async def test_only_the_question_for_loaded_models_may_fail(
    backend: ScriptedBackend, tls: ssl.SSLContext, script: bytes | None
) -> None:
    backend.scripts["/api/ps"] = script

    got = await ask(backend.url, tls, timeout_s=0.5)

    assert got.loaded == ()
    assert [model.name for model in got.models] == ["llama3.2:latest"]


async def test_an_answer_that_trickles_ends_with_the_deadline(tls: ssl.SSLContext) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while not reader.at_eof():
            writer.write(b"1\r\n \r\n")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await reader.read(1)

    async with speaking_server(trickle) as url:
        assert await failure(url, tls, timeout_s=0.3) == "timeout"


class Stream:
    """What httpx shows of a connection that just stood up."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.closed = False

    def get_extra_info(self, _name: str) -> tuple[str, int]:
        return (self.address, 11434)

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "100.100.100.200"])
async def test_a_name_that_led_to_a_forbidden_address_is_hung_up_on(address: str) -> None:
    stream = Stream(address)

    with pytest.raises(PollFailed, match="forbidden_address"):
        await ConnectionWatch()("connection.connect_tcp.complete", {"return_value": stream})

    assert stream.closed
