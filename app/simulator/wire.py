"""Small pieces of the wire format: response heads, time stamps and JSON as Go writes them."""

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import msgspec

JSON_UTF8: Final = b"application/json; charset=utf-8"
JSON_BARE: Final = b"application/json"
NDJSON: Final = b"application/x-ndjson"
EVENT_STREAM: Final = b"text/event-stream"
PLAIN_UTF8: Final = b"text/plain; charset=utf-8"
PLAIN_BARE: Final = b"text/plain"

NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000

_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


def go_json(value: object) -> bytes:
    """Return compact JSON the way Go's encoder writes it: `<`, `>` and `&` are escaped inside strings."""
    raw = msgspec.json.encode(value)
    if b"<" in raw or b">" in raw or b"&" in raw:
        raw = raw.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    return raw


def event(kind: str, data: bytes) -> bytes:
    """Return a server-sent event that names its type, as the Responses API and Anthropic's do."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def status_line(status: int) -> bytes:
    """Return the status line of a response, with its line end."""
    return b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b"Unknown"))


class WallClock:
    """Time stamps as text. The part that changes once a second is kept: streams ask thousands of times."""

    def __init__(self) -> None:
        self._second = -1
        self._stamp = b""
        self._date = b""

    def _turn_to(self, second: int) -> None:
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
            self._date = formatdate(second, usegmt=True).encode()

    def rfc3339(self) -> bytes:
        """Return now in UTC with up to nine decimals, trailing zeros cut as Go does."""
        second, nanos = divmod(time.time_ns(), NS_PER_S)
        self._turn_to(second)
        if nanos == 0:
            return self._stamp + b"Z"
        return (b"%b.%09d" % (self._stamp, nanos)).rstrip(b"0") + b"Z"

    def http_date(self) -> bytes:
        """Return now as the value of a Date header."""
        self._turn_to(time.time_ns() // NS_PER_S)
        return self._date
