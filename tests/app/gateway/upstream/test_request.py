"""The bytes of a request, and which configuration is refused."""

import asyncio

import pytest

from app.gateway.upstream.adapter import BackendUpstream
from app.gateway.upstream.request import parse_origin
from tests.app.gateway.upstream.scripted import EMPTY, REQUEST_ID, Waits, client_of, finish, scripted_backend

TRACEPARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def _head_sent(
    *, prefix: str = "", traceparent: bytes | None = None, headers: dict[str, str] | None = None
) -> list[bytes]:
    async with scripted_backend() as backend, client_of(backend.url + prefix, headers=headers) as upstream:
        call = asyncio.create_task(
            upstream.post(b"/api/chat", b'{"a":1}', request_id=REQUEST_ID, traceparent=traceparent)
        )
        peer = await backend.peer()
        request = await peer.request()
        await peer.send(EMPTY)
        (await finish(call)).close()
    return request.head.replace(backend.url.removeprefix("http://").encode(), b"HOST").split(b"\r\n")


async def test_the_head_holds_our_lines_and_nothing_else() -> None:
    lines = await _head_sent()

    assert lines == [
        b"POST /api/chat HTTP/1.1",
        b"Host: HOST",
        b"Content-Type: application/json",
        b"Accept: */*",
        b"Accept-Encoding: identity",
        b"X-Request-Id: " + REQUEST_ID,
        b"Content-Length: 7",
        b"",
        b"",
    ]


async def test_the_backends_headers_and_the_trace_are_added() -> None:
    lines = await _head_sent(
        traceparent=TRACEPARENT, headers={"Authorization": "Bearer t0ken", "X-Extra": "\xe9"}
    )

    assert {b"Authorization: Bearer t0ken", b"X-Extra: \xe9", b"traceparent: " + TRACEPARENT} <= set(lines)
    assert len(lines) == 12


@pytest.mark.parametrize("prefix", ["/deep/prefix", "/deep/prefix/"])
async def test_a_path_prefix_goes_before_every_path(prefix: str) -> None:
    lines = await _head_sent(prefix=prefix)

    assert lines[0] == b"POST /deep/prefix/api/chat HTTP/1.1"


async def test_proxy_variables_do_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    lines = await _head_sent()

    assert lines[0] == b"POST /api/chat HTTP/1.1"


@pytest.mark.parametrize(
    ("path", "request_id", "traceparent"),
    [
        (b"/a HTTP/1.1\r\nX: y", b"r", None),
        (b"/a b", b"r", None),
        (b"/a\n", b"r", None),
        (b"/a", b"r\r\nX: y", None),
        (b"/a", b"r\r", None),
        (b"/a", b"r", b"t\r\nX: y"),
        (b"/a", b"r", b"t\n"),
    ],
)
async def test_an_argument_that_would_add_a_line_is_refused(
    path: bytes, request_id: bytes, traceparent: bytes | None
) -> None:
    async with scripted_backend() as backend, client_of(backend.url) as upstream:
        with pytest.raises(ValueError, match="request head"):
            await upstream.post(path, b"{}", request_id=request_id, traceparent=traceparent)

    assert backend.peers == []


@pytest.mark.parametrize(
    "base_url",
    [
        "ftp://host", "host:11434", "//host", "http://", "http://:80", "http://host:99999", "http://host:x",
        "http://user:s3cret@host", "http://s3cret@host", "http://host/?key=s3cret", "http://host/#s3cret",
        "http://host/a b", "http://ho st", "http://a..b", "http://h\u00f6st", "http://[::1", "http://[fe80::1%25lo]",
        "http://" + "a" * 64 + ".b",
    ],
)  # fmt: skip
def test_an_unusable_base_url_is_refused_without_repeating_it(base_url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as refused:
        parse_origin(base_url)

    assert "s3cret" not in repr(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("http://ollama-1", ("ollama-1", 80, False, "ollama-1", "")),
        ("https://Ollama.Example.:8443/p/", ("ollama.example.", 8443, True, "Ollama.Example.:8443", "/p")),
        ("http://[::1]:11434", ("::1", 11434, False, "[::1]:11434", "")),
        ("http://127.0.0.1:", ("127.0.0.1", 80, False, "127.0.0.1", "")),
    ],
)
def test_a_base_url_is_taken_apart(base_url: str, expected: tuple[str, int, bool, str, str]) -> None:
    origin = parse_origin(base_url)

    assert (origin.host, origin.port, origin.tls, origin.authority, origin.path_prefix) == expected


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Key": "s3cret\r\nX: y"},
        {"X-Key": "s3cret\n"},
        {"X-Key": "s3cret\0"},
        {"X-Key": "s3cret\u20ac"},
        {"X Key": "s3cret"},
        {"": "s3cret"},
        {"Host": "s3cret"},
        {"content-LENGTH": "s3cret"},
        {"Transfer-Encoding": "s3cret"},
    ],
)
def test_an_unusable_header_is_refused_without_its_value(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="header") as refused:
        BackendUpstream(name="a", base_url="http://host", headers=headers, deadlines=Waits())

    assert "s3cret" not in repr(refused.value)


def test_a_bound_below_one_connection_is_refused() -> None:
    with pytest.raises(ValueError, match="max_connections"):
        BackendUpstream(name="a", base_url="http://host", headers={}, deadlines=Waits(), max_connections=0)
