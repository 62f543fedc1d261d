"""The corpus of oddly framed requests (`tests/journeys/framing.toml`), its variants, and how to send one."""

import asyncio
import json
import re
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Final

import msgspec

from tests.support.asking import RESPONSES, WHOLES, Shape
from tests.support.repository import ROOT, text_of

ANSWERED_WITHIN_S: Final = 15.0
DAMAGED_WITHIN_S: Final = 1.0
"""Where a request may have lost its end, the gateway rightly waits for it. So long its answer is waited for."""
DAMAGED_ONE_IN: Final = 4
LINGER_S: Final = 0.2
"""How long more answers are waited for on a connection that may stay open."""

_CHUNKS = re.compile(r"<chunks(;[^>]*)?(?::([^>]*))?>")
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_EDGES = re.compile(
    rb"\r\n|:|content-length|transfer-encoding|chunked|(?<!probe-)\b[0-9a-f]{1,3}\b", re.IGNORECASE
)
_ODD = (b"\r\n", *(bytes([each]) for each in b"\r\n\0 \t\x0b,;:01f-+\x80\xff"))
_CONTINUE = 100


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One case of the corpus; the file says what its parts mean."""

    name: str
    upstream: int
    head: list[str] = []
    body: str = ""
    raw: str = ""
    closes: bool = False


class Sending(msgspec.Struct, frozen=True):
    """One variant of a case: the bytes in the pieces in which they are sent. `number` marks what is smuggled.

    `upstream` is the most requests that may reach a backend. Of a damaged one nobody can say what it still means; it is
    at most all the requests that it holds.
    """

    number: int
    case: Case
    pieces: tuple[bytes, ...]
    upstream: int
    is_damaged: bool


class Heard(msgspec.Struct, frozen=True):
    """What came back: final statuses, and whether the other side closed the connection."""

    statuses: tuple[int, ...]
    closed: bool


class _Corpus(msgspec.Struct):
    case: list[Case]


def corpus() -> list[Case]:
    """Return all cases."""
    document = tomllib.loads(text_of(ROOT / "tests/journeys/framing.toml"))
    return msgspec.convert(document, _Corpus).case


def mark(number: int) -> str:
    """Return the prompt by which a backend's log shows whose request arrived."""
    return f"probe-{number}-"


def marked_body(shape: Shape, number: int) -> str:
    """Return a good body of a shape."""
    prompt = mark(number)
    if shape.path == RESPONSES:
        return json.dumps(shape.body(input=prompt))
    return json.dumps(shape.body(messages=[{"role": "user", "content": prompt}]))


def varied(random: Random, number: int, case: Case, key: str) -> Sending:
    """Return a case on some route, with its headers in some case, one more among them, cut into some pieces.

    One in a few has a few bytes of its framing changed.
    """
    shape = random.choice(WHOLES)
    text = case.raw
    if case.head:
        lines = [case.head[0], *(_recased(random, line) for line in case.head[1:])]
        lines.insert(random.randint(1, len(lines)), f"X-Noise: {random.randrange(10**6)}")
        text = "\r\n".join([*lines, "", case.body])
    data = _filled(text, shape, number, key).encode("latin-1")
    is_damaged = random.randrange(DAMAGED_ONE_IN) == 0
    upstream = case.upstream
    if is_damaged:
        upstream = data.count(mark(number).encode())
        data = _damaged(random, data)
    cuts = sorted(random.randrange(len(data)) for _ in range(random.randint(0, 3)))
    pieces = tuple(data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True))
    return Sending(number, case, pieces, upstream, is_damaged)


async def converse(port: int, pieces: Sequence[bytes], *, closes: bool, answers: bool = True) -> Heard:
    """Send the pieces and return what came back, up to the end of the connection if it is to be closed.

    Raises
    ------
    TimeoutError
        No answer and no end came in time, and one had to.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard, closed = b"", False
    try:
        with suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        while not closed:
            must_come = answers and (closes or not _statuses(heard))
            patience = ANSWERED_WITHIN_S if must_come else LINGER_S if answers else DAMAGED_WITHIN_S
            try:
                more = await asyncio.wait_for(reader.read(65_536), patience)
            except ConnectionError:
                more = b""
            except TimeoutError:
                if must_come:
                    raise
                break
            heard += more
            closed = not more
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
    return Heard(_statuses(heard), closed)


def _statuses(heard: bytes) -> tuple[int, ...]:
    return tuple(status for found in _STATUS.findall(heard) if (status := int(found)) != _CONTINUE)


def _recased(random: Random, line: str) -> str:
    name, colon, value = line.partition(":")
    return random.choice((name, name.lower(), name.upper())) + colon + value


def _damaged(random: Random, data: bytes) -> bytes:
    """Return bytes of which a few were lost, doubled, put in or changed, mostly in what frames a request."""
    damaged = bytearray(data)
    edges = [found.start() for found in _EDGES.finditer(data)] or [0]
    for _ in range(random.randint(1, 3)):
        place = min(max(0, random.choice(edges) + random.randint(-2, 2)), len(damaged) - 1)
        end = place + random.randint(1, 3)
        odd = random.choice(_ODD)
        damaged[place:end] = random.choice((b"", odd, odd + damaged[place:end], damaged[place:end] * 2))
    return bytes(damaged)


def _filled(text: str, shape: Shape, number: int, key: str) -> str:
    body = marked_body(shape, number)
    second = (
        f"POST {shape.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    for name, value in {
        "<key>": key,
        "<path>": shape.path,
        "<length>": str(len(body)),
        "<json>": body,
        "<second-length>": str(len(second)),
        "<second>": second,
        "<huge>": "a" * 1_000_000,
    }.items():
        text = text.replace(name, value)
    return _CHUNKS.sub(lambda found: _chunked(body, found[1] or "", found[2]), text)


def _chunked(body: str, extension: str, trailers: str | None) -> str:
    parts = (body[:5], body[5:], "")
    chunks = "\r\n".join(f"{len(part):x}{extension}\r\n{part}" for part in parts if part)
    return (
        f"{chunks}\r\n0{extension}\r\n{trailers}\r\n\r\n" if trailers else f"{chunks}\r\n0{extension}\r\n\r\n"
    )
