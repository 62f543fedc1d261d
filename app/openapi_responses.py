"""The bodies of the Responses API and of Anthropic's as types: for description only, as in `app.openapi_types`."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.openapi_types import Answered, Count, Integer, Model, Number, StreamedOnRequest, Text

_POLICED = "The operator decides whether it is passed on, dropped or refused."
_STATELESS = "Refused: nothing is kept between requests."
ToolList = Annotated[
    list[dict[str, Any]],
    Meta(
        description="Functions. The built-in tools web_search and web_fetch only where a backend may use the cloud."
    ),
]


class ResponsesRequest(msgspec.Struct, kw_only=True):
    """Continue a conversation."""

    model: Model
    input: Annotated[str | list[dict[str, Any]], Meta(description="A text, or the items of a conversation.")]
    instructions: Text = UNSET
    tools: ToolList | UnsetType = UNSET
    stream: StreamedOnRequest | UnsetType = UNSET
    max_output_tokens: Integer = UNSET
    temperature: Number = UNSET
    top_p: Number = UNSET
    text: Annotated[dict[str, Any], Meta(description="`format` may be a JSON schema.")] | UnsetType = UNSET
    truncation: Text = UNSET
    reasoning: Annotated[dict[str, Any], Meta(description=_POLICED)] | UnsetType = UNSET
    previous_response_id: Annotated[None, Meta(description=_STATELESS)] | UnsetType = UNSET
    conversation: Annotated[None, Meta(description=_STATELESS)] | UnsetType = UNSET
    background: Annotated[Literal[False] | None, Meta(description=_STATELESS)] | UnsetType = UNSET
    prompt: Annotated[None, Meta(description="Refused: no templates are kept.")] | UnsetType = UNSET


class ResponseUsage(msgspec.Struct):
    """Tokens of one request."""

    input_tokens: Count
    output_tokens: Count
    total_tokens: Count


class Response(msgspec.Struct, kw_only=True):
    """A whole answer; it cannot be fetched again."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "failed", "in_progress", "incomplete"]
    model: Answered
    output: Annotated[list[dict[str, Any]], Meta(description="Thoughts, function calls and messages.")]
    error: dict[str, Any] | None
    usage: ResponseUsage | None
    store: Literal[False]


class ResponseEvent(msgspec.Struct, kw_only=True):
    """The data of one event of a streamed answer; further fields go with its type."""

    type: str
    sequence_number: Count
    response: Response | UnsetType = UNSET
    delta: Text = UNSET


class CountTokensRequest(msgspec.Struct, kw_only=True):
    """Estimate a prompt. Whatever else a request to `/v1/messages` may hold is looked over."""

    model: Model
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    system: str | list[dict[str, Any]] | UnsetType = UNSET
    tools: ToolList | UnsetType = UNSET


class MessagesRequest(CountTokensRequest, kw_only=True):
    """Continue a conversation."""

    max_tokens: Annotated[int, Meta(ge=1, description="Most tokens to generate.")]
    stream: StreamedOnRequest | UnsetType = UNSET
    stop_sequences: list[str] | UnsetType = UNSET
    temperature: Number = UNSET
    top_p: Number = UNSET
    top_k: Integer = UNSET
    thinking: Annotated[dict[str, Any], Meta(description=_POLICED)] | UnsetType = UNSET
    output_config: Annotated[dict[str, Any], Meta(description=_POLICED)] | UnsetType = UNSET


class TokenCount(msgspec.Struct):
    """An estimate: a quarter of the bytes, and something for each message and image."""

    input_tokens: Count


class MessageUsage(msgspec.Struct):
    """Tokens of one request."""

    input_tokens: Count
    output_tokens: Count


class AnthropicMessage(msgspec.Struct, kw_only=True):
    """A whole answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: Answered
    content: Annotated[list[dict[str, Any]], Meta(description="Blocks: thoughts, text and tool calls.")]
    stop_reason: str
    usage: MessageUsage


class AnthropicEvent(msgspec.Struct, kw_only=True):
    """The data of one event of a streamed answer; further fields go with its type."""

    type: Annotated[str, Meta(pattern="^(?!error$)")]
    index: Count | UnsetType = UNSET
    message: dict[str, Any] | UnsetType = UNSET
    delta: dict[str, Any] | UnsetType = UNSET
    usage: MessageUsage | UnsetType = UNSET


class AnthropicErrorDetail(msgspec.Struct):
    """What was refused and why."""

    type: str
    message: str


class AnthropicError(msgspec.Struct):
    """A refusal on `/v1/messages`; also the last event of a stream that failed half-way, then without an id."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: Text = UNSET
