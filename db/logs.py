"""Structured logging of both processes: one JSON object per line on standard error.

Events are constants with fields. Whatever a field holds, its line stays one line of bounded length that every
reader agrees on; secrets and prompts are never passed in at all.
"""

import json
import logging
import math
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from domain.printable import printable

LogFormat = Literal["json", "console"]

MAX_FIELD_BYTES = 256
MAX_TRACEBACK_CHARACTERS = 16_384
_ELLIPSIS = "..."


def bound_fields(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make every field short and encodable. Tracebacks, which are ours, may be longer: head and tail stay."""
    for name, value in event.items():
        if name == "exception":
            event[name] = _shortened(str(value))
        elif not name.startswith("_"):  # structlog's own notes about a library's record never leave
            event[name] = _bounded(value)
    return event


def printable_fields(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Escape what a terminal would obey rather than show."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            lines = value.split("\n") if name == "exception" else [value]
            event[name] = "\n".join(printable(line) for line in lines)
    return event


def encode(event: MutableMapping[str, Any], **_: Any) -> str:
    """Return an event as JSON in ASCII: some readers end a line at U+2028, some terminals obey U+009B."""
    return json.dumps(event, default=str, ensure_ascii=True, separators=(",", ":"))


def configure_logging(*, level: str, log_format: LogFormat, process: str) -> None:
    """Route our events and the warnings of libraries to standard error. Call once, at the entry point."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        bound_fields,
    ]
    final: list[Any] = (
        [structlog.processors.JSONRenderer(serializer=encode)]
        if log_format == "json"
        else [
            printable_fields,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # A line and its end in one write, or the lines of processes that share a terminal or a file run together.
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _bounded(value: object) -> object:
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, bool | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    try:
        text = json.dumps(value, default=str, allow_nan=False)
    except (TypeError, ValueError, RecursionError):  # no JSON: circular, a number too long to print, ...
        return f"<{type(value).__name__}>"
    return value if len(text) <= MAX_FIELD_BYTES else _cut(text)


def _cut(text: str) -> str:
    """Return text of at most `MAX_FIELD_BYTES` bytes in UTF-8, an ellipsis included."""
    if len(text) * 4 <= MAX_FIELD_BYTES:
        return text
    encoded = text[: MAX_FIELD_BYTES + 1].encode("utf-8", "replace")
    if len(encoded) <= MAX_FIELD_BYTES:
        return text
    return encoded[: MAX_FIELD_BYTES - len(_ELLIPSIS)].decode("utf-8", "ignore") + _ELLIPSIS


def _shortened(traceback: str) -> str:
    if len(traceback) <= MAX_TRACEBACK_CHARACTERS:
        return traceback
    half = MAX_TRACEBACK_CHARACTERS // 2
    return f"{traceback[:half]}{_ELLIPSIS}{traceback[-half:]}"
