"""The wire: framing, connections and what is not inference."""

import httpx
import pytest

from tests.app.simulator.raw import CHAT, chunks_of, dial, post, read_all, read_until, talk
from tests.support.ollama import SimulatedOllama

CLOSE = "Connection: close"


async def test_get_root_says_that_ollama_is_running(api: httpx.AsyncClient) -> None:
    answer = await api.get("/")

    assert (answer.status_code, answer.text) == (200, "Ollama is running")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
async def test_head_has_a_length_and_no_body(ollama: SimulatedOllama, path: str) -> None:
    answer = await talk(ollama.url, f"HEAD {path} HTTP/1.1\r\nHost: x\r\n{CLOSE}\r\n\r\n".encode())

    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Length: " in head
    assert body == b""


async def test_head_of_a_long_list_has_no_body_either(ollama: SimulatedOllama) -> None:
    await ollama.host(*(f"model-{number}" for number in range(50)))

    answer = await talk(ollama.url, b"HEAD /api/tags HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert answer.endswith(b"\r\n\r\n")


async def test_version_is_dotted_integers(api: httpx.AsyncClient) -> None:
    answer = await api.get("/api/version")

    assert answer.text == '{"version":"0.32.15"}'


async def test_unknown_path_is_a_plain_404(api: httpx.AsyncClient) -> None:
    answer = await api.get("/api/nothing")

    assert (answer.status_code, answer.text) == (404, "404 page not found")
    assert answer.headers["content-type"] == "text/plain"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", "/api/chat", "POST"), ("POST", "/api/tags", "GET, HEAD"), ("GET", "/api/pull", "POST")],
)
async def test_wrong_method_is_a_plain_405(
    api: httpx.AsyncClient, method: str, path: str, allow: str
) -> None:
    answer = await api.request(method, path)

    assert (405, allow) == (answer.status_code, answer.headers["allow"])


async def test_a_trailing_slash_is_redirected(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/chat/", json=CHAT)

    assert (answer.status_code, answer.headers["location"]) == (307, "/api/chat")


async def test_small_answer_has_a_length(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/chat", json=CHAT | {"stream": False})

    assert len(answer.content) == int(answer.headers["content-length"])


async def test_large_answer_is_chunked(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await ollama.change(tokens=1000)

    answer = await api.post("/api/chat", json=CHAT | {"stream": False})

    assert "content-length" not in answer.headers
    assert answer.json()["eval_count"] == 1000


async def test_every_streamed_record_is_one_chunk(ollama: SimulatedOllama) -> None:
    answer = await talk(ollama.url, post("/api/chat", CHAT, CLOSE))

    chunks = chunks_of(answer)
    assert len(chunks) == 12 + 1
    assert all(chunk.count(b"\n") == 1 and chunk.endswith(b"}\n") for chunk in chunks)


async def test_connection_is_kept_and_serves_the_next_request(ollama: SimulatedOllama) -> None:
    async with await dial(ollama.url) as stream:
        await stream.send(post("/api/chat", CHAT))
        await read_until(stream, b"0\r\n\r\n")
        await stream.send(post("/api/chat", CHAT))
        await read_until(stream, b"0\r\n\r\n")

        stats = await ollama.stats()
    assert (stats.ended, stats.connections.accepted) == (2, 1)


async def test_pipelined_requests_are_answered_in_order(ollama: SimulatedOllama) -> None:
    first = post("/api/generate", {"model": "llama3.2", "prompt": "x"})
    second = b"GET /api/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    answer = await talk(ollama.url, first + second)

    assert answer.index(b'"done":true') < answer.index(b'"version"')


async def test_connection_close_is_honoured(ollama: SimulatedOllama) -> None:
    answer = await talk(ollama.url, post("/api/chat", CHAT, CLOSE))

    assert b"Connection: close\r\n" in answer
    assert answer.endswith(b"0\r\n\r\n")


async def test_http_1_0_gets_a_body_that_ends_with_the_connection(ollama: SimulatedOllama) -> None:
    answer = await talk(ollama.url, post("/api/chat", CHAT).replace(b"HTTP/1.1", b"HTTP/1.0"))

    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert body.endswith(b"}\n")


async def test_chunked_request_body_is_read(ollama: SimulatedOllama) -> None:
    body = b'{"model":"llama3.2","prompt":"hello you","stream":false}'
    pieces = (body[:20], body[20:])
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    head = (
        b"POST /api/generate HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )

    answer = await talk(ollama.url, head + chunked)

    assert b'"prompt_eval_count":2' in answer


async def test_request_may_come_byte_by_byte(ollama: SimulatedOllama) -> None:
    async with await dial(ollama.url) as stream:
        for byte in post("/api/chat", CHAT | {"stream": False}):
            await stream.send(bytes([byte]))

        assert b'"done":true' in await read_until(stream, b'"eval_duration"')


async def test_expect_100_is_answered(ollama: SimulatedOllama) -> None:
    request = post("/api/chat", CHAT, CLOSE, "Expect: 100-continue")

    assert (await talk(ollama.url, request)).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


async def test_what_is_not_http_gets_a_400(ollama: SimulatedOllama) -> None:
    assert (await talk(ollama.url, b"\x16\x03\x01 hello\r\n\r\n")).startswith(b"HTTP/1.1 400 Bad Request")


async def test_a_reader_that_lags_stops_the_stream(ollama: SimulatedOllama) -> None:
    await ollama.change(tokens=200_000)
    async with await dial(ollama.url) as stream:
        await stream.send(post("/api/chat", CHAT))
        stats = await ollama.wait(stalled=1)

    assert 0 < stats.tokens < 200_000


async def test_a_reader_that_catches_up_gets_everything(ollama: SimulatedOllama) -> None:
    await ollama.change(tokens=50_000)
    async with await dial(ollama.url) as stream:
        await stream.send(post("/api/chat", CHAT, CLOSE))
        await ollama.wait(stalled=1)
        said = await read_all(stream)

    assert said.count(b'"done":false') == 50_000
