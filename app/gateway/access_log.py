"""One line per answered request. Written without the logging stack: it is on the hot path.

No query string, no key beyond its readable prefix, no prompt, no header a client chose except a valid request id.
"""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

import msgspec

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

    def __init__(self, log_format: LogFormat, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._lines: list[str] = []
        self._encode = msgspec.json.Encoder().encode
        self._as_json = log_format == "json"

    def write(
        self,
        *,
        request_id: str,
        client_request_id: str | None,
        method: str,
        route: str,
        status: int,
        seconds: float,
        sent_bytes: int,
        client: str,
        note: AccessNote,
    ) -> None:
        """Note one line."""
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_INTERVAL_S, self.flush)
        method = method[:MAX_METHOD_CHARACTERS]
        note.model = note.model[:MAX_MODEL_CHARACTERS]
        if self._as_json:
            line = _Line(
                datetime.now(UTC), "info", "request", request_id, method, route, status,
                round(seconds * 1e3, 3), sent_bytes, client, note, client_request_id,
            )  # fmt: skip
            self._lines.append(self._encode(line).decode())
        else:
            self._lines.append(
                f"{method} {route} {status} {seconds * 1e3:.1f} ms"
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
