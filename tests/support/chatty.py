"""A backend that talks about itself in every answer it gives, be it good or a failure, each time in other words."""

from collections.abc import Iterator
from typing import Any, Final

from tests.support.asking import ANTHROPIC, NATIVE, OPENAI, RESPONSES, Shape
from tests.support.canaries import Aviary, Kind
from tests.support.scripted_backend import answer

SHARED: Final = "llama3.2"
"""On both backends: the scripted one fails, the simulated one answers."""
ALONE: Final = "alone:1b"
"""On the scripted backend only: whatever it says is the end of it."""
ANOTHERS: Final = "another:1b"
"""Hosted, and granted to nobody."""
STATUSES: Final = (400, 401, 403, 404, 405, 413, 422, 429, 500, 502, 503, 504)
TAIL_AT: Final = 20_000
BEGUN: Final = {
    NATIVE: b'{"model":"m","message":{"role":"assistant","content":"begun"},"done":false}\n',
    OPENAI: b'data: {"id":"x","model":"m","choices":[{"index":0,"delta":{"content":"begun"}}]}\n\n',
    RESPONSES: b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"begun",'
    b'"sequence_number":1}\n\n',
    ANTHROPIC: b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"begun"}}\n\n',
}
"""The first output of a stream, after which nothing fails over."""
FAILING: Final = {
    NATIVE: (b'{"error":"%b"}\n', b"%b\n", b'{"message":%b}\n'),
    OPENAI: (
        b'data: {"error":{"message":"%b","type":"%b"}}\n\n',
        b'data: {"error":"%b"}\n\n',
        b"data: %b\n\n",
    ),
    RESPONSES: (
        b'event: response.failed\ndata: {"type":"response.failed","response":{"error":{"message":"%b"}}}\n\n',
        b'event: error\ndata: {"type":"error","message":"%b"}\n\n',
        b"event: %b\ndata: {}\n\n",
    ),
    ANTHROPIC: (
        b'event: error\ndata: {"type":"error","error":{"type":"%b","message":"%b"}}\n\n',
        b'event: error\ndata: {"type":"error","error":"%b"}\n\n',
        b"event: error\ndata: %b\n\n",
    ),
}
"""How a backend may fail in the middle of one, or break the protocol."""


class Chatty:
    """What the scripted backend says; each saying holds canaries of its own."""

    def __init__(self, aviary: Aviary) -> None:
        self._aviary = aviary

    def headers(self) -> dict[str, str]:
        new = self._aviary.new
        names = (
            "Server",
            "X-Powered-By",
            "Set-Cookie",
            "Via",
            "Location",
            "X-Request-Id",
            "WWW-Authenticate",
        )
        return {name: new(Kind.UPSTREAM_TAIL) for name in names}  # not even operators need them

    def model(self, name: str) -> dict[str, Any]:
        new, kind = self._aviary.new, Kind.TOPOLOGY
        details = {"parent_model": f"/srv/{new(kind)}", "format": "gguf", "family": "llama", "families": None}
        return {
            "name": name,
            "model": name,
            "digest": "ab" * 32,
            "size": 7,
            "modified_at": "2026-01-01T00:00:00Z",
            "details": details,
            "remote_host": "",
            "path": f"/root/{new(kind)}",
        }

    def about_itself(self) -> dict[str, bytes]:
        """Return the answers that discovery gets."""
        new, kind = self._aviary.new, Kind.TOPOLOGY
        models = [self.model(name) for name in (f"{SHARED}:latest", ALONE, ANOTHERS)]
        shown = {
            "license": "MIT",
            "modelfile": f"FROM /usr/share/{new(kind)}\nSYSTEM {new(Kind.PROMPT)}",
            "system": new(Kind.PROMPT),
            "template": new(Kind.PROMPT),
            "parameters": f"stop {new(kind)}",
            "details": {"parent_model": new(kind), "family": "llama"},
            "model_info": {"general.architecture": "llama", "llama.context_length": 4096},
            "capabilities": ["completion"],
        }
        loaded = [{**model, "size_vram": 7, "expires_at": "2030-01-01T00:00:00Z"} for model in models]
        return {
            "/api/version": answer({"version": "0.30.1", "build": new(kind)}, headers=self.headers()),
            "/api/tags": answer({"models": models}, headers=self.headers()),
            "/api/ps": answer({"models": loaded}, headers=self.headers()),
            "/api/show": answer(shown, headers=self.headers()),
        }

    def refusals(self) -> Iterator[bytes]:
        """Yield what it says when it fails, in every way."""
        new = self._aviary.new
        padding = "x" * TAIL_AT
        for status in STATUSES:
            said = f"{new(Kind.UPSTREAM)} at /root/.ollama{padding}{new(Kind.UPSTREAM_TAIL)}"
            yield answer({"error": said}, status=status, headers=self.headers())
        yield answer(f"panic: {new(Kind.UPSTREAM)}".encode(), status=500)
        yield answer(f"<html>{new(Kind.UPSTREAM)}".encode(), headers={"content-type": "text/html"})
        yield answer({"error": {"message": new(Kind.UPSTREAM), "type": new(Kind.UPSTREAM)}}, status=500)
        yield answer({"error": f"{new(Kind.UPSTREAM)}{padding}{new(Kind.UPSTREAM_TAIL)}"})
        yield answer(b"", status=307, headers={"location": f"http://{new(Kind.UPSTREAM)}/"})
        yield f"{new(Kind.UPSTREAM)}\r\n\r\n".encode()
        for line in (
            b'{"error":"%b"}\n',
            b'data: {"error":{"message":"%b"}}\n\n',
            b"event: error\ndata: %b\n\n",
        ):
            said_so = line % new(Kind.UPSTREAM).encode()
            yield answer(said_so, headers={"content-type": "application/x-ndjson"})
            yield answer(said_so, headers={"content-type": "text/event-stream"})

    def failing_streams(self, shape: Shape) -> Iterator[bytes]:
        """Yield streams that begin well and end in something that it says."""
        kind = "application/x-ndjson" if shape.native else "text/event-stream"
        for line in FAILING[shape.path]:
            said = line.replace(b"%b", self._aviary.new(Kind.UPSTREAM).encode())
            yield answer(BEGUN[shape.path] + said, headers={**self.headers(), "content-type": kind})
