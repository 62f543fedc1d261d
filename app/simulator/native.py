"""Ollama's own API: what `/api/generate` and `/api/chat` understand, and the records they answer with."""

from functools import lru_cache
from typing import Final

from app.simulator.decode import Body, Refusal, flag_field, list_field, object_field, text_field
from app.simulator.jobs import (
    Host,
    Job,
    Quick,
    Spoken,
    check_options,
    compose,
    output_cap,
    require_capability,
    require_model,
)
from app.simulator.loading import keep_alive_ns
from app.simulator.models import SimulatedModel
from app.simulator.playback import Run
from app.simulator.script import Piece, ToolCall, count_tokens
from app.simulator.wire import JSON_UTF8, NDJSON, WallClock, go_json

_SHARED: Final = [
    "model",
    "stream",
    "format",
    "think",
    "keep_alive",
    "options",
    "truncate",
    "shift",
    "logprobs",
    "top_logprobs",
    "_debug_render_only",
]
GENERATE_FIELDS: Final = frozenset(
    [*_SHARED, *["prompt", "suffix", "system", "template", "context", "raw", "images"]]
)
CHAT_FIELDS: Final = frozenset([*_SHARED, "messages", "tools"])

_CONTEXT_LIMIT: Final = 8192
_THINK_LEVELS: Final = frozenset({"low", "medium", "high", "max"})


def plan_generate(body: Body, host: Host) -> Job:
    """Read a `/api/generate` request.

    Raises
    ------
    Refusal
        The request is answered with an error.
    """
    name = text_field(body, "model")
    model = require_model(host, name)
    keep_alive = keep_alive_ns(body.get("keep_alive"))
    prompt = text_field(body, "prompt")
    suffix = text_field(body, "suffix")
    options = object_field(body, "options")
    stream = flag_field(body, "stream", default=True)
    raw = flag_field(body, "raw", default=False)
    if raw and (body.get("template") or body.get("system") or body.get("context")):
        raise Refusal(400, "raw mode does not support template, system, or context")
    if not prompt and not suffix:
        return _load_only(model, name, keep_alive, host.clock, b'"response":""')
    require_capability(model, name, "completion", "generate")
    check_options(options)
    think = not raw and _wants_thinking(body.get("think"), model, name)
    script = compose(
        host,
        prompt=prompt,
        cap=output_cap(options.get("num_predict")),
        think=think,
        tools=[],
        schema=_checked_format(body.get("format")),
    )
    return Spoken(
        model=model,
        echo=go_json(name),
        script=script,
        prompt_tokens=count_tokens(text_field(body, "system") + prompt + suffix),
        stream=stream,
        shape=RawGenerateShape if raw else GenerateShape,
        keep_alive=keep_alive,
    )


def plan_chat(body: Body, host: Host) -> Job:
    """Read a `/api/chat` request.

    Raises
    ------
    Refusal
        The request is answered with an error.
    """
    name = text_field(body, "model")
    if not name:
        raise Refusal(400, "model is required")
    model = require_model(host, name)
    keep_alive = keep_alive_ns(body.get("keep_alive"))
    messages = list_field(body, "messages")
    options = object_field(body, "options")
    stream = flag_field(body, "stream", default=True)
    if not messages:
        return _load_only(model, name, keep_alive, host.clock, b'"message":{"role":"assistant","content":""}')
    tools = list_field(body, "tools")
    require_capability(model, name, "completion", "chat")
    if tools:
        require_capability(model, name, "tools", "tools")
    check_options(options)
    script = compose(
        host,
        prompt=last_content(messages),
        cap=output_cap(options.get("num_predict")),
        think=_wants_thinking(body.get("think"), model, name),
        tools=tools,
        schema=_checked_format(body.get("format")),
    )
    return Spoken(
        model=model,
        echo=go_json(name),
        script=script,
        prompt_tokens=count_tokens(all_contents(messages)),
        stream=stream,
        shape=ChatShape,
        keep_alive=keep_alive,
    )


def all_contents(messages: list[object]) -> str:
    """Return the text of all messages, which is what the prompt costs."""
    return "".join(map(_content, messages))


def last_content(messages: list[object]) -> str:
    """Return the text of the last message, which is what the model reacts to."""
    return _content(messages[-1]) if messages else ""


def _content(message: object) -> str:
    if not isinstance(message, dict):
        raise Refusal(
            400, "json: cannot unmarshal value into Go struct field Request.messages of type api.Message"
        )
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _wants_thinking(think: object, model: SimulatedModel, name: str) -> bool:
    if not (isinstance(think, bool | None) or (isinstance(think, str) and think in _THINK_LEVELS)):
        raise Refusal(
            400, f'invalid think value: "{think}" (must be "high", "medium", "low", "max", true, or false)'
        )
    can = "thinking" in model.capabilities
    if think and not can:
        raise Refusal(400, f'"{name}" does not support thinking')
    return can and think is not False


def _checked_format(asked: object) -> object:
    if asked is None or asked == "":
        return None
    if asked == "json" or isinstance(asked, dict):
        return asked
    raise Refusal(
        500, f'invalid format: {go_json(asked).decode()}; expected "json" or a valid JSON Schema object'
    )


def _load_only(
    model: SimulatedModel, name: str, keep_alive: int | None, clock: WallClock, content: bytes
) -> Quick:
    unload = keep_alive == 0
    reason = b"unload" if unload else b"load"

    def body(_load_ns: int, _total_ns: int) -> bytes:
        return b'{"model":%b,"created_at":"%b",%b,"done":true,"done_reason":"%b"}' % (
            go_json(name),
            clock.rfc3339(),
            content,
            reason,
        )

    return Quick(model=model, content_type=JSON_UTF8, body=body, keep_alive=keep_alive, unload=unload)


def _metrics(run: Run) -> bytes:
    total, load, prompt, evaluation = run.timings()
    return (
        b'"total_duration":%d,"load_duration":%d,"prompt_eval_count":%d,"prompt_eval_duration":%d,'
        b'"eval_count":%d,"eval_duration":%d}'
        % (total, load, run.prompt_tokens, prompt, len(run.script.pieces), evaluation)
    )


@lru_cache(maxsize=1)
def _numbers() -> tuple[bytes, tuple[int, ...]]:
    """Return the text 1,2,3,... and where each number in it ends."""
    ends = []
    position = 0
    for number in range(1, _CONTEXT_LIMIT + 1):
        position += len(str(number))
        ends.append(position)
        position += 1
    return ",".join(map(str, range(1, _CONTEXT_LIMIT + 1))).encode(), tuple(ends)


def _context(run: Run) -> bytes:
    text, ends = _numbers()
    count = min(_CONTEXT_LIMIT, run.prompt_tokens + len(run.script.pieces))
    return b'"context":[%b],' % text[: ends[count - 1]]


def tool_calls_json(calls: tuple[ToolCall, ...]) -> bytes:
    """Return native tool calls; their arguments are an object."""
    return go_json(
        [
            {"id": call.id, "function": {"index": index, "name": call.name, "arguments": call.arguments}}
            for index, call in enumerate(calls)
        ]
    )


class _NativeShape:
    """What the records of generate and chat have in common."""

    stream_type = NDJSON
    whole_type = JSON_UTF8

    def __init__(self, run: Run, clock: WallClock) -> None:
        self._run = run
        self._clock = clock
        self._pieces = run.script.pieces
        self._opening = b'{"model":%b,"created_at":"' % run.echo

    def _stamped(self) -> bytes:
        return self._opening + self._clock.rfc3339()

    def _closing(self) -> bytes:
        return b'"done":true,"done_reason":"%b",' % self._run.script.done_reason.encode()

    def failure(self, message: str) -> bytes:
        """Return the in-band error line."""
        return go_json({"error": message}) + b"\n"


class ChatShape(_NativeShape):
    """Records of `/api/chat`."""

    def record(self, index: int) -> bytes:
        """Return the record of one token."""
        return b'%b","message":%b,"done":false}\n' % (self._stamped(), self._message(self._pieces[index]))

    def _message(self, piece: Piece) -> bytes:
        if piece.kind == "text":
            return b'{"role":"assistant","content":%b}' % piece.json
        if piece.kind == "thinking":
            return b'{"role":"assistant","content":"","thinking":%b}' % piece.json
        calls = tool_calls_json(self._run.script.tool_calls)
        return b'{"role":"assistant","content":"","tool_calls":%b}' % calls

    def ending(self) -> bytes:
        """Return the final record."""
        return self._final(b'{"role":"assistant","content":""}') + b"\n"

    def whole(self) -> bytes:
        """Return the answer as one document."""
        script = self._run.script
        thinking = b',"thinking":' + script.thinking if script.thinking else b""
        calls = b',"tool_calls":' + tool_calls_json(script.tool_calls) if script.tool_calls else b""
        return self._final(b'{"role":"assistant","content":%b%b%b}' % (script.text, thinking, calls))

    def _final(self, message: bytes) -> bytes:
        return b'%b","message":%b,%b%b' % (self._stamped(), message, self._closing(), _metrics(self._run))


class GenerateShape(_NativeShape):
    """Records of `/api/generate`."""

    def record(self, index: int) -> bytes:
        """Return the record of one token."""
        piece = self._pieces[index]
        if piece.kind == "thinking":
            return b'%b","response":"","thinking":%b,"done":false}\n' % (self._stamped(), piece.json)
        return b'%b","response":%b,"done":false}\n' % (self._stamped(), piece.json)

    def ending(self) -> bytes:
        """Return the final record, which carries the context."""
        return self._final(b'""') + b"\n"

    def whole(self) -> bytes:
        """Return the answer as one document."""
        script = self._run.script
        return self._final(
            script.text + b',"thinking":' + script.thinking if script.thinking else script.text
        )

    def _final(self, response: bytes) -> bytes:
        context = self._context()
        return b'%b","response":%b,%b%b%b' % (
            self._stamped(),
            response,
            self._closing(),
            context,
            _metrics(self._run),
        )

    def _context(self) -> bytes:
        return _context(self._run)


class RawGenerateShape(GenerateShape):
    """Records of `/api/generate` in raw mode, which returns no context."""

    def _context(self) -> bytes:
        return b""
