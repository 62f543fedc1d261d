"""Error bodies of the two API families."""

from typing import Final, Literal

from app.simulator.wire import JSON_BARE, JSON_UTF8, go_json

Family = Literal["native", "openai"]

BUSY_TEXT: Final = "server busy, please try again.  maximum pending requests exceeded"

_OPENAI_TYPES: Final = {400: "invalid_request_error", 404: "not_found_error"}


def openai_error(status: int, message: str) -> bytes:
    """Return the `/v1` error object."""
    kind = _OPENAI_TYPES.get(status, "api_error")
    return go_json({"error": {"message": message, "type": kind, "param": None, "code": None}})


def error_body(family: Family, status: int, message: str) -> tuple[bytes, bytes]:
    """Return content type and body of an error answer."""
    if family == "native":
        return JSON_UTF8, go_json({"error": message})
    # A bad request is refused before Ollama's translating writer is in place, hence the other content type.
    return (JSON_UTF8 if status == 400 else JSON_BARE), openai_error(status, message) + b"\n"  # noqa: PLR2004
