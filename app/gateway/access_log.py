"""One line per answered request. Written without the logging stack: it is on the hot path.

No query string, no key beyond its readable prefix, no prompt, no header a client chose except a valid request id.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TextIO

import msgspec

from app.gateway.call import Call
from db.logs import LogFormat

FLUSH_INTERVAL_S: Final = 0.05
MAX_METHOD_CHARACTERS: Final = 32
MAX_MODEL_CHARACTERS: Final = 256
"""HTTP bounds neither a method nor, with its host, a model's name as a log line should be."""


class AccessNote(msgspec.Struct, omit_defaults=True):
    """What the stages learn about a request on their way, for its log line."""

    tenant: str = ""
    key: str = ""
    model: str = ""
    backend: str = ""
    attempts: int = 0
    queue_ms: float = 0.0
    outcome: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


class _Line(msgspec.Struct, omit_defaults=True):
    timestamp: datetime
    level: str
    event: str
    request_id: str
    method: str
    route: str
    status: int
    duration_ms: float
    bytes: int
    client: str
    note: AccessNote
    client_request_id: str | None = None


class AccessLog:
    """Writes the lines to standard error, as JSON or for a person.

    Lines are handed to the system together, every `FLUSH_INTERVAL_S`: one write for each would cost a small
    request a tenth of its time. A killed process loses what it had not written yet; the usage journal does not.
    """

    def __init__(
        self,
        log_format: LogFormat,
        stream: TextIO | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._lines: list[str] = []
        self._encode = msgspec.json.Encoder().encode
        self._as_json = log_format == "json"
        self._clock = clock

    def write(self, call: Call, *, route: str, status: int, sent_bytes: int, note: AccessNote) -> None:
        """Note one line about a call that has been answered just now."""
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_INTERVAL_S, self.flush)
        request_id, method = call.request_id_text.decode(), call.method[:MAX_METHOD_CHARACTERS]
        duration_ms = (self._clock() - call.started) * 1e3
        note.model = note.model[:MAX_MODEL_CHARACTERS]
        if self._as_json:
            line = _Line(
                datetime.now(UTC), "info", "request", request_id, method, route, status,
                round(duration_ms, 3), sent_bytes, call.peer or "", note, call.client_request_id,
            )  # fmt: skip
            self._lines.append(self._encode(line).decode())
        else:
            self._lines.append(
                f"{method} {route} {status} {duration_ms:.1f} ms"
                f"{_labelled('model', note.model)}{_labelled('backend', note.backend)}"
                f"{_labelled('tenant', note.tenant)}{_labelled('outcome', note.outcome)}"
                f" id={request_id}"
            )

    def flush(self) -> None:
        """Write what has been noted."""
        lines, self._lines = self._lines, []
        if lines:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()


def _labelled(name: str, value: str) -> str:
    return f" {name}={value}" if value else ""
