"""Structured logging of both processes: one JSON object per line on standard error.

Events are constants with fields. Field values are bounded, so that nothing a client or a backend sends can
flood a line; secrets and prompts are never passed in at all.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import msgspec
import structlog

LogFormat = Literal["json", "console"]

MAX_FIELD_CHARACTERS = 256


def bound_fields(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut long text fields; tracebacks keep their length, they are ours."""
    for name, value in event.items():
        if isinstance(value, str) and len(value) > MAX_FIELD_CHARACTERS and name != "exception":
            event[name] = value[:MAX_FIELD_CHARACTERS] + "..."
    return event


def _encode(event: MutableMapping[str, Any], **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def configure_logging(*, level: str, log_format: LogFormat, process: str) -> None:
    """Route our events and the warnings of libraries to standard error. Call once, at the entry point."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        bound_fields,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(serializer=_encode)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
