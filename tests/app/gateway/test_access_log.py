"""One line per request, whatever it was called with."""

import asyncio
import io
from typing import Any

import msgspec
import pytest

from app.gateway.access_log import AccessLog, AccessNote
from app.gateway.call import Call
from db.logs import LogFormat
from tests.support.waiting import until


class World:
    """A log that can be read back."""

    def __init__(self, log_format: LogFormat = "json") -> None:
        self.stream = io.StringIO()
        self.log = AccessLog(log_format, self.stream, clock=lambda: 10.0123456)

    def write(
        self, *, method: str = "POST", status: int = 200, note: AccessNote | None = None, own_id: bytes = b""
    ) -> str:
        """Note a call that came in at 10 s, and return its id."""
        call = Call(
            method=method,
            raw_path=b"/api/chat",
            headers=[(b"x-request-id", own_id)],
            peer="10.0.0.1",
            started=10.0,
        )
        self.log.write(call, route="/api/chat", status=status, sent_bytes=42, note=note or AccessNote())
        return call.request_id_text.decode()

    def lines(self) -> list[Any]:
        self.log.flush()
        return [msgspec.json.decode(line) for line in self.stream.getvalue().split("\n")[:-1]]


async def test_a_line_says_what_happened() -> None:
    world = World()
    note = AccessNote("acme", "nng_abcdefgh", "m:1", "a", 2, 12.5, "completed", 3, 5)

    request_id = world.write(note=note, own_id=b"mine")

    (line,) = world.lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": request_id,
        "client_request_id": "mine",
        "method": "POST",
        "route": "/api/chat",
        "status": 200,
        "duration_ms": 12.346,
        "bytes": 42,
        "client": "10.0.0.1",
        "note": {
            "tenant": "acme",
            "key": "nng_abcdefgh",
            "model": "m:1",
            "backend": "a",
            "attempts": 2,
            "queue_ms": 12.5,
            "outcome": "completed",
            "tokens_in": 3,
            "tokens_out": 5,
        },
    }


async def test_lines_are_written_together_a_moment_later() -> None:
    world = World()
    for number in range(3):
        world.write(status=200 + number)
    assert world.stream.getvalue() == ""

    await until(lambda: world.stream.getvalue().count("\n") == 3, within_s=5)

    assert [line["status"] for line in world.lines()] == [200, 201, 202]


async def test_nothing_noted_writes_nothing() -> None:
    world = World()

    world.log.flush()

    assert world.stream.getvalue() == ""


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_t34_a_method_or_model_of_any_length_is_one_short_line(log_format: LogFormat) -> None:
    world = World(log_format)

    world.write(method="M" * 60_000, note=AccessNote(model="m" * 640))
    world.log.flush()

    written = world.stream.getvalue()
    assert written.count("\n") == 1
    assert len(written) < 1024


async def test_a_person_reads_one_line_as_well() -> None:
    world = World("console")

    request_id = world.write(note=AccessNote(tenant="acme", model="m:1", backend="a", outcome="completed"))
    world.log.flush()

    assert world.stream.getvalue() == (
        f"POST /api/chat 200 12.3 ms model=m:1 backend=a tenant=acme outcome=completed id={request_id}\n"
    )


async def test_a_line_noted_while_others_are_written_is_not_lost() -> None:
    world = World()
    world.write()
    world.log.flush()
    world.write()
    await asyncio.sleep(0)

    assert len(world.lines()) == 2
