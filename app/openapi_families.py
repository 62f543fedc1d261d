"""What the description says of each API family, whatever the route."""

from typing import Final

import msgspec

from app.openapi_responses import AnthropicError
from app.openapi_types import NativeError, OpenAIError
from domain.values import ApiFamily

_EVENT_STREAM: Final = "text/event-stream"
STREAM_TYPES: Final = dict.fromkeys(ApiFamily, _EVENT_STREAM) | {ApiFamily.NATIVE: "application/x-ndjson"}

ERRORS: Final[dict[ApiFamily, type[msgspec.Struct]]] = {
    ApiFamily.NATIVE: NativeError,
    ApiFamily.OPENAI: OpenAIError,
    ApiFamily.RESPONSES: OpenAIError,
    ApiFamily.ANTHROPIC: AnthropicError,
}
PREFIXES: Final = {
    ApiFamily.NATIVE: "Native",
    ApiFamily.OPENAI: "OpenAI",
    ApiFamily.RESPONSES: "OpenAI",
    ApiFamily.ANTHROPIC: "Anthropic",
}
TAGS: Final = {
    ApiFamily.NATIVE: "Ollama's own API.",
    ApiFamily.OPENAI: "The API that OpenAI clients speak.",
    ApiFamily.RESPONSES: "OpenAI's Responses API, without what would have to be kept between requests.",
    ApiFamily.ANTHROPIC: "The API that Anthropic clients speak.",
}
FRAMINGS: Final = {
    ApiFamily.NATIVE: "One record per line. A stream that fails half-way ends with a record that holds `error`.",
    ApiFamily.OPENAI: "Events whose data is one record each, then `data: [DONE]`. A stream that fails half-way ends"
    " with an event that holds `error`.",
    ApiFamily.RESPONSES: "Typed events, the last one `response.completed`. A stream that fails half-way ends with"
    " `response.failed`.",
    ApiFamily.ANTHROPIC: "Typed events, the last one `message_stop`. A stream that fails half-way ends with an"
    " `error` event.",
}
