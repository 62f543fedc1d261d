"""The `/v1` API as Ollama offers it: what it understands, and the chunks it answers with."""

import random
import time
from typing import Final

from app.simulator.decode import (
    Body,
    Refusal,
    flag_field,
    fold_keys,
    integer_field,
    list_field,
    object_field,
    text_field,
)
from app.simulator.jobs import (
    Host,
    Job,
    Spoken,
    compose,
    output_cap,
    require_capability,
    require_model,
)
from app.simulator.models import SimulatedModel
from app.simulator.native import all_contents, last_content
from app.simulator.playback import Run
from app.simulator.script import Piece, ToolCall, count_tokens
from app.simulator.wire import EVENT_STREAM, JSON_BARE, WallClock, go_json

_SHARED: Final = [
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "seed",
    "stop",
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "logprobs",
    "_debug_render_only",
]
CHAT_FIELDS: Final = frozenset(
    [*_SHARED, *["messages", "tools", "response_format", "reasoning", "reasoning_effort", "top_logprobs"]]
)
COMPLETION_FIELDS: Final = frozenset([*_SHARED, "prompt", "suffix"])
_STREAM_OPTIONS: Final = frozenset({"include_usage"})

_EFFORTS: Final = frozenset({"high", "medium", "low", "max", "none"})
_DONE: Final = b"data: [DONE]\n\n"
_ID_RANGE: Final = 999
"""Ollama's ids come from this tiny range; they are not unique."""


def plan_chat_completion(body: Body, host: Host) -> Job:
    """Read a `/v1/chat/completions` request.

    Raises
    ------
    Refusal
        The request is answered with an error.
    """
    messages = list_field(body, "messages")
    if not messages:
        raise Refusal(400, "[] is too short - 'messages'")
    name = text_field(body, "model")
    if not name:
        raise Refusal(400, "model is required")
    stream = flag_field(body, "stream", default=False)
    usage = _include_usage(body)
    cap = output_cap(integer_field(body, "max_tokens"))
    tools = list_field(body, "tools")
    model = require_model(host, name)
    require_capability(model, name, "completion", "chat")
    if tools:
        require_capability(model, name, "tools", "tools")
    script = compose(
        host,
        prompt=last_content(messages),
        cap=cap,
        think=_wants_thinking(body, model, name),
        tools=tools,
        schema=_wanted_schema(body),
    )
    return Spoken(
        model=model,
        echo=go_json(name),
        script=script,
        prompt_tokens=count_tokens(all_contents(messages)),
        stream=stream,
        shape=ChatCompletionWithUsage if usage else ChatCompletionShape,
    )


def plan_completion(body: Body, host: Host) -> Job:
    """Read a `/v1/completions` request.

    Raises
    ------
    Refusal
        The request is answered with an error.
    """
    name = text_field(body, "model")
    prompt = text_field(body, "prompt")
    suffix = text_field(body, "suffix")
    stream = flag_field(body, "stream", default=False)
    usage = _include_usage(body)
    cap = output_cap(integer_field(body, "max_tokens"))
    model = require_model(host, name)
    require_capability(model, name, "completion", "generate")
    script = compose(host, prompt=prompt, cap=cap, think=False, tools=[], schema=None)
    return Spoken(
        model=model,
        echo=go_json(name),
        script=script,
        prompt_tokens=count_tokens(prompt + suffix),
        stream=stream,
        shape=CompletionWithUsage if usage else CompletionShape,
    )


def _include_usage(body: Body) -> bool:
    return fold_keys(object_field(body, "stream_options"), _STREAM_OPTIONS).get("include_usage") is True


def _wants_thinking(body: Body, model: SimulatedModel, name: str) -> bool:
    effort = body.get("reasoning_effort") or object_field(body, "reasoning").get("effort")
    if effort is not None and not (isinstance(effort, str) and effort in _EFFORTS):
        raise Refusal(
            400, f'invalid reasoning value: \'{effort}\' (must be "high", "medium", "low", or "none")'
        )
    can = "thinking" in model.capabilities
    if effort is not None and effort != "none" and not can:
        raise Refusal(400, f'"{name}" does not support thinking')
    return can and effort != "none"


def _wanted_schema(body: Body) -> object:
    wanted = object_field(body, "response_format")
    if wanted.get("type") == "json_object":
        return "json"
    described = wanted.get("json_schema")
    if wanted.get("type") == "json_schema" and isinstance(described, dict):
        return described.get("schema")
    return None


def usage_json(run: Run) -> bytes:
    """Return the usage object of a finished run."""
    said = len(run.script.pieces)
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (
        run.prompt_tokens,
        said,
        run.prompt_tokens + said,
    )


def tool_calls_json(calls: tuple[ToolCall, ...]) -> bytes:
    """Return tool calls in the `/v1` form; their arguments are a JSON string."""
    return go_json(
        [
            {
                "id": call.id,
                "index": index,
                "type": "function",
                "function": {"name": call.name, "arguments": go_json(call.arguments).decode()},
            }
            for index, call in enumerate(calls)
        ]
    )


class ChatCompletionShape:
    """Chunks of `/v1/chat/completions`; a stream says nothing of usage."""

    stream_type = EVENT_STREAM
    whole_type = JSON_BARE

    def __init__(self, run: Run, clock: WallClock) -> None:  # noqa: ARG002 - every shape is built alike
        self._run = run
        self._id = b"chatcmpl-%d" % random.randrange(_ID_RANGE)  # an id, no secret  # nosec B311
        self._created = int(time.time())
        self._opening = (
            b'data: {"id":"%b","object":"chat.completion.chunk","created":%d,"model":%b,'
            b'"system_fingerprint":"fp_ollama","choices":[' % (self._id, self._created, run.echo)
        )

    @property
    def _finish_reason(self) -> bytes:
        script = self._run.script
        return b"tool_calls" if script.tool_calls else script.done_reason.encode()

    def record(self, index: int) -> bytes:
        """Return the chunk of one token; the first one names the role."""
        role = b'"role":"assistant",' if index == 0 else b""
        delta = self._delta(self._run.script.pieces[index])
        return b'%b{"index":0,"delta":{%b%b},"finish_reason":null}]}\n\n' % (self._opening, role, delta)

    def _delta(self, piece: Piece) -> bytes:
        if piece.kind == "text":
            return b'"content":' + piece.json
        if piece.kind == "thinking":
            return b'"content":"","reasoning":' + piece.json
        return b'"content":"","tool_calls":' + tool_calls_json(self._run.script.tool_calls)

    def ending(self) -> bytes:
        """Return the finish chunk and the terminator; Ollama flushes them together."""
        return self._finish_chunk() + _DONE

    def _finish_chunk(self) -> bytes:
        return b'%b{"index":0,"delta":{},"finish_reason":"%b"}]}\n\n' % (self._opening, self._finish_reason)

    def _usage_chunk(self) -> bytes:
        return b'%b],"usage":%b}\n\n' % (self._opening, usage_json(self._run))

    def whole(self) -> bytes:
        """Return the answer as one document; usage is always in it."""
        run, script = self._run, self._run.script
        reasoning = b',"reasoning":' + script.thinking if script.thinking else b""
        calls = b',"tool_calls":' + tool_calls_json(script.tool_calls) if script.tool_calls else b""
        return (
            b'{"id":"%b","object":"chat.completion","created":%d,"model":%b,"system_fingerprint":"fp_ollama",'
            b'"choices":[{"index":0,"message":{"role":"assistant","content":%b%b%b},"finish_reason":"%b"}],'
            b'"usage":%b}\n'
            % (
                self._id,
                self._created,
                run.echo,
                script.text,
                reasoning,
                calls,
                self._finish_reason,
                usage_json(run),
            )
        )

    def failure(self, message: str) -> bytes:  # noqa: ARG002 - that is the point
        """Return the empty chunk an error turns into: the message is swallowed."""
        return (
            b'data: {"id":"%b","object":"chat.completion.chunk","created":%d,"model":"",'
            b'"system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}\n\n'
            % (self._id, self._created)
        )


class ChatCompletionWithUsage(ChatCompletionShape):
    """The same with `include_usage`: one more chunk, without choices, before the terminator."""

    def ending(self) -> bytes:
        """Return the finish chunk, the usage chunk and the terminator."""
        return self._finish_chunk() + self._usage_chunk() + _DONE


class CompletionShape:
    """Chunks of `/v1/completions`."""

    stream_type = EVENT_STREAM
    whole_type = JSON_BARE
    _zero_usage = b""

    def __init__(self, run: Run, clock: WallClock) -> None:  # noqa: ARG002 - every shape is built alike
        self._run = run
        self._id = b"cmpl-%d" % random.randrange(_ID_RANGE)  # an id, no secret  # nosec B311
        self._created = int(time.time())
        self._opening = b'data: {"id":"%b","object":"text_completion","created":%d,"choices":[' % (
            self._id,
            self._created,
        )
        self._closing = b'],"model":%b,"system_fingerprint":"fp_ollama"' % run.echo

    def record(self, index: int) -> bytes:
        """Return the chunk of one token."""
        return self._chunk(self._run.script.pieces[index].json, b"null")

    def ending(self) -> bytes:
        """Return the last text chunk, with the finish reason, and the terminator."""
        return self._last_chunk() + _DONE

    def _chunk(self, text: bytes, finish_reason: bytes) -> bytes:
        return b'%b{"text":%b,"index":0,"finish_reason":%b}%b%b}\n\n' % (
            self._opening,
            text,
            finish_reason,
            self._closing,
            self._zero_usage,
        )

    def _last_chunk(self) -> bytes:
        return self._chunk(b'""', b'"%b"' % self._run.script.done_reason.encode())

    def whole(self) -> bytes:
        """Return the answer as one document."""
        run = self._run
        return (
            b'{"id":"%b","object":"text_completion","created":%d,"model":%b,"system_fingerprint":"fp_ollama",'
            b'"choices":[{"text":%b,"index":0,"finish_reason":"%b"}],"usage":%b}\n'
            % (
                self._id,
                self._created,
                run.echo,
                run.script.text,
                run.script.done_reason.encode(),
                usage_json(run),
            )
        )

    def failure(self, message: str) -> bytes:  # noqa: ARG002 - that is the point
        """Return the empty chunk an error turns into: the message is swallowed."""
        return (
            b'%b{"text":"","index":0,"finish_reason":null}],"model":"","system_fingerprint":"fp_ollama"%b}\n\n'
            % (self._opening, self._zero_usage)
        )


class CompletionWithUsage(CompletionShape):
    """The same with `include_usage`: zeros in every chunk, the truth in one more chunk without choices."""

    _zero_usage = b',"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'

    def ending(self) -> bytes:
        """Return the last text chunk, the usage chunk and the terminator."""
        usage = b'%b%b,"usage":%b}\n\n' % (self._opening, self._closing, usage_json(self._run))
        return self._last_chunk() + usage + _DONE
