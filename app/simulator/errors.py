"""Error bodies of the API families."""

from secrets import token_hex
from typing import Final, Literal

from app.simulator.wire import JSON_BARE, JSON_UTF8, go_json

Family = Literal["native", "openai", "responses", "anthropic"]

BUSY_TEXT: Final = "server busy, please try again.  maximum pending requests exceeded"

_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
_OPENAI_TYPES: Final = {400: "invalid_request_error", 404: "not_found_error"}


def openai_error(status: int, message: str) -> bytes:
    """Return the `/v1` error object."""
    kind = _OPENAI_TYPES.get(status, "api_error")
    return go_json({"error": {"message": message, "type": kind, "param": None, "code": None}})


def anthropic_error(status: int, message: str) -> dict[str, object]:
    """Return Anthropic's error object, as it stands in bodies and in events."""
    return {"type": "error", "error": {"type": _ANTHROPIC_TYPES.get(status, "api_error"), "message": message}}


def error_body(family: Family, status: int, message: str) -> tuple[bytes, bytes]:
    """Return content type and body of an error answer."""
    if family == "native":
        return JSON_UTF8, go_json({"error": message})
    # A bad request is refused before Ollama's translating writer is in place, hence the other content type.
    content_type = JSON_UTF8 if status == 400 else JSON_BARE  # noqa: PLR2004
    if family == "anthropic":
        request_id = f"req_{token_hex(12)}"
        return content_type, go_json({**anthropic_error(status, message), "request_id": request_id}) + b"\n"
    return content_type, openai_error(status, message) + b"\n"
