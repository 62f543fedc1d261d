"""The bodies of the tenant surface as types: for its description only, the relay never builds one.

Requests list what can have an effect; any other field is dropped. Answers are the backends' own and may hold
more than is listed here.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Model = Annotated[str, Meta(description="Name of a model that the key may use.", examples=["llama3.2"])]
Answered = Annotated[str, Meta(description="The model, spelled as in the request.")]
Nanoseconds = Annotated[int, Meta(ge=0, description="Nanoseconds.")]
Count = Annotated[int, Meta(ge=0)]
Streamed = Annotated[bool, Meta(description="Answer record by record. Default: true.")]
StreamedOnRequest = Annotated[bool, Meta(description="Answer event by event. Default: false.")]
Text = str | UnsetType
Number = float | UnsetType
Integer = int | UnsetType
Flag = bool | UnsetType
_POLICED = "The operator decides whether it is passed on, bounded, dropped or refused."
Think = Annotated[
    bool | Literal["low", "medium", "high", "max"],
    Meta(description=f"Whether, or how hard, a thinking model thinks. Default: it does. {_POLICED}"),
]
Format = Annotated[
    Literal["json"] | dict[str, Any], Meta(description='"json", or a JSON schema that the answer must fit.')
]
KeepAlive = Annotated[
    str | float, Meta(description=f"How long the model stays loaded: seconds or a duration. {_POLICED}")
]
PolicedFlag = Annotated[bool, Meta(description=_POLICED)]
PolicedText = Annotated[str, Meta(description=_POLICED)]
PolicedInteger = Annotated[int, Meta(description=_POLICED)]
Stop = Annotated[str | list[str], Meta(description="Text at which generation ends.")]


class Options(msgspec.Struct):
    """Sampling options, and options of how a model is loaded, which others share."""

    num_keep: Integer = UNSET
    seed: Integer = UNSET
    num_predict: Annotated[int, Meta(description="Most tokens to generate.")] | UnsetType = UNSET
    top_k: Integer = UNSET
    top_p: Number = UNSET
    min_p: Number = UNSET
    tfs_z: Number = UNSET
    typical_p: Number = UNSET
    repeat_last_n: Integer = UNSET
    temperature: Number = UNSET
    repeat_penalty: Number = UNSET
    presence_penalty: Number = UNSET
    frequency_penalty: Number = UNSET
    mirostat: Integer = UNSET
    mirostat_tau: Number = UNSET
    mirostat_eta: Number = UNSET
    penalize_newline: Flag = UNSET
    stop: list[str] | UnsetType = UNSET
    num_ctx: PolicedInteger | UnsetType = UNSET
    num_batch: PolicedInteger | UnsetType = UNSET
    num_gpu: PolicedInteger | UnsetType = UNSET
    main_gpu: PolicedInteger | UnsetType = UNSET
    use_mmap: PolicedFlag | UnsetType = UNSET
    num_thread: PolicedInteger | UnsetType = UNSET
    draft_num_predict: PolicedInteger | UnsetType = UNSET


class FunctionCall(msgspec.Struct):
    """A function that the model wants called."""

    name: str
    arguments: dict[str, Any]


class ToolCall(msgspec.Struct):
    """One wish for a call."""

    function: FunctionCall
    id: Text = UNSET


class Message(msgspec.Struct):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    thinking: Text = UNSET
    images: Annotated[list[str], Meta(description="Base64.")] | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET
    tool_name: Text = UNSET
    tool_call_id: Text = UNSET


class GenerateRequest(msgspec.Struct):
    """Continue a prompt."""

    model: Model
    prompt: Text = UNSET
    suffix: Text = UNSET
    system: PolicedText | UnsetType = UNSET
    template: PolicedText | UnsetType = UNSET
    context: Annotated[list[int], Meta(description=_POLICED)] | UnsetType = UNSET
    raw: PolicedFlag | UnsetType = UNSET
    images: Annotated[list[str], Meta(description="Base64.")] | UnsetType = UNSET
    stream: Streamed | UnsetType = UNSET
    format: Format | UnsetType = UNSET
    think: Think | UnsetType = UNSET
    options: Options | UnsetType = UNSET
    truncate: Flag = UNSET
    shift: PolicedFlag | UnsetType = UNSET
    keep_alive: KeepAlive | UnsetType = UNSET
    logprobs: Flag = UNSET
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | UnsetType = UNSET


class ChatRequest(msgspec.Struct):
    """Continue a conversation."""

    model: Model
    messages: list[Message] | UnsetType = UNSET
    tools: list[dict[str, Any]] | UnsetType = UNSET
    stream: Streamed | UnsetType = UNSET
    format: Format | UnsetType = UNSET
    think: Think | UnsetType = UNSET
    options: Options | UnsetType = UNSET
    truncate: Flag = UNSET
    shift: PolicedFlag | UnsetType = UNSET
    keep_alive: KeepAlive | UnsetType = UNSET
    logprobs: Flag = UNSET
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | UnsetType = UNSET


class EmbedRequest(msgspec.Struct):
    """Embed one or more texts."""

    model: Model
    input: str | list[str] | UnsetType = UNSET
    truncate: Flag = UNSET
    dimensions: Integer = UNSET
    options: Options | UnsetType = UNSET
    keep_alive: KeepAlive | UnsetType = UNSET


class EmbeddingsRequest(msgspec.Struct):
    """Embed one text, the older way; the vector is not normalised."""

    model: Model
    prompt: Text = UNSET
    options: Options | UnsetType = UNSET
    keep_alive: KeepAlive | UnsetType = UNSET


class _Measured(msgspec.Struct):
    done_reason: Text = UNSET
    total_duration: Nanoseconds | UnsetType = UNSET
    load_duration: Nanoseconds | UnsetType = UNSET
    prompt_eval_count: Count | UnsetType = UNSET
    prompt_eval_duration: Nanoseconds | UnsetType = UNSET
    eval_count: Count | UnsetType = UNSET
    eval_duration: Nanoseconds | UnsetType = UNSET


class GenerateRecord(_Measured, kw_only=True):
    """One record of a stream, or the whole answer. The last one has `done` true and the counts."""

    model: Answered
    created_at: str
    response: str
    thinking: Text = UNSET
    context: list[int] | UnsetType = UNSET
    logprobs: list[dict[str, Any]] | UnsetType = UNSET
    done: bool


class ChatRecord(_Measured, kw_only=True):
    """One record of a stream, or the whole answer. The last one has `done` true and the counts."""

    model: Answered
    created_at: str
    message: Message
    logprobs: list[dict[str, Any]] | UnsetType = UNSET
    done: bool


class EmbedAnswer(msgspec.Struct):
    """One vector for each text."""

    model: Answered
    embeddings: list[list[float]]
    total_duration: Nanoseconds | UnsetType = UNSET
    load_duration: Nanoseconds | UnsetType = UNSET
    prompt_eval_count: Count | UnsetType = UNSET


class EmbeddingsAnswer(msgspec.Struct):
    """One vector."""

    embedding: list[float]


class Version(msgspec.Struct):
    """The lowest version among the backends."""

    version: str


class ModelEntry(msgspec.Struct):
    """One model of the merged catalogue."""

    name: str
    model: str
    modified_at: str
    size: Count
    digest: str
    details: dict[str, Any]
    capabilities: list[str] | UnsetType = UNSET


class ModelEntries(msgspec.Struct):
    """The models that the key may use, newest first."""

    models: list[ModelEntry]


class NativeError(msgspec.Struct):
    """A refusal on Ollama's own routes; also the last record of a stream that failed half-way."""

    error: str


class OpenAIErrorDetail(msgspec.Struct):
    """What was refused and why."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct):
    """A refusal on the `/v1` routes; also the last event of a stream that failed half-way."""

    error: OpenAIErrorDetail


class StreamOptions(msgspec.Struct):
    """What a stream carries beside the text."""

    include_usage: Annotated[bool, Meta(description="End with an event that holds the counts.")]


class _OutputRequest(msgspec.Struct, kw_only=True):
    model: Model
    stream: StreamedOnRequest | UnsetType = UNSET
    stream_options: StreamOptions | UnsetType = UNSET
    max_tokens: Integer = UNSET
    max_completion_tokens: Annotated[int, Meta(description="Counts as max_tokens.")] | UnsetType = UNSET
    seed: Integer = UNSET
    stop: Stop | UnsetType = UNSET
    temperature: Number = UNSET
    top_p: Number = UNSET
    frequency_penalty: Number = UNSET
    presence_penalty: Number = UNSET


class ChatCompletionRequest(_OutputRequest, kw_only=True):
    """Continue a conversation."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    tools: list[dict[str, Any]] | UnsetType = UNSET
    response_format: dict[str, Any] | UnsetType = UNSET
    reasoning: dict[str, Any] | UnsetType = UNSET
    reasoning_effort: Text = UNSET
    logprobs: Flag = UNSET
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | UnsetType = UNSET


class CompletionRequest(_OutputRequest, kw_only=True):
    """Continue a prompt."""

    prompt: Text = UNSET
    suffix: Text = UNSET
    logprobs: Annotated[int, Meta(ge=0)] | UnsetType = UNSET


class OpenAIEmbeddingsRequest(msgspec.Struct):
    """Embed one or more texts."""

    model: Model
    input: str | list[str]
    dimensions: Integer = UNSET
    encoding_format: Literal["float", "base64"] | UnsetType = UNSET


class TokenUsage(msgspec.Struct):
    """Tokens of one request."""

    prompt_tokens: Count
    total_tokens: Count
    completion_tokens: Count | UnsetType = UNSET


class _OpenAIAnswer(msgspec.Struct, kw_only=True):
    id: str
    created: int
    model: Answered
    system_fingerprint: Text = UNSET
    choices: list[dict[str, Any]]


class ChatCompletion(_OpenAIAnswer, kw_only=True):
    """A whole answer."""

    object: Literal["chat.completion"]
    usage: TokenUsage


class ChatCompletionChunk(_OpenAIAnswer, kw_only=True):
    """The data of one event of a streamed answer."""

    object: Literal["chat.completion.chunk"]
    usage: TokenUsage | UnsetType | None = UNSET


class Completion(_OpenAIAnswer, kw_only=True):
    """A whole answer, or the data of one event of a streamed one."""

    object: Literal["text_completion"]
    usage: TokenUsage | UnsetType | None = UNSET


class Embedding(msgspec.Struct):
    """One vector; base64 of little-endian floats if that was asked for."""

    object: Literal["embedding"]
    embedding: list[float] | str
    index: Count


class EmbeddingList(msgspec.Struct):
    """One vector for each text."""

    object: Literal["list"]
    data: list[Embedding]
    model: Answered
    usage: TokenUsage


class OpenAIModel(msgspec.Struct):
    """One model of the merged catalogue."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModelList(msgspec.Struct):
    """The models that the key may use, newest first."""

    object: Literal["list"]
    data: list[OpenAIModel]
