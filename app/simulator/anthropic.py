"""`/v1/messages` as Ollama offers it."""

from collections.abc import Iterator
from secrets import token_hex
from typing import Final

import msgspec

from app.simulator.decode import (
    Body,
    Refusal,
    flag_field,
    integer_field,
    list_field,
    object_field,
    text_field,
)
from app.simulator.jobs import Host, Job, Spoken, compose, output_cap, require_capability, require_model
from app.simulator.playback import Run
from app.simulator.script import Piece, count_tokens
from app.simulator.wire import EVENT_STREAM, JSON_BARE, WallClock, event, go_json

FIELDS: Final = frozenset(
    {
        "model",
        "max_tokens",
        "messages",
        "system",
        "stream",
        "temperature",
        "top_p",
        "top_k",
        "stop_sequences",
        "tools",
        "tool_choice",
        "thinking",
        "metadata",
        "output_config",
    }
)
_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens"}


def plan_message(body: Body, host: Host) -> Job:
    """Read a request.

    Raises
    ------
    Refusal
        The request is answered with an error.
    """
    name = text_field(body, "model")
    if not name:
        raise Refusal(400, "model is required")
    cap = output_cap(integer_field(body, "max_tokens"))
    if cap is None:
        raise Refusal(400, "max_tokens is required and must be positive")
    messages = list_field(body, "messages")
    if not messages:
        raise Refusal(400, "messages is required")
    stream = flag_field(body, "stream", default=False)
    texts = [_text(body.get("system")), *map(_message_text, messages)]
    tools = [_as_function(tool) for tool in list_field(body, "tools")]
    model = require_model(host, name)
    require_capability(model, name, "completion", "chat")
    if tools:
        require_capability(model, name, "tools", "tools")
    # Unlike everywhere else, asking a model to think that cannot is no error here.
    think = "thinking" in model.capabilities and object_field(body, "thinking").get("type") != "disabled"
    script = compose(host, prompt=texts[-1], cap=cap, think=think, tools=tools, schema=None)
    prompt = "".join(texts)
    return Spoken(
        model=model,
        echo=go_json(name),
        script=script,
        prompt_tokens=count_tokens(prompt),
        stream=stream,
        # The first event guesses at the prompt; the guess is wrong on purpose, so that nobody books it.
        shape=lambda run, clock: MessageShape(run, clock, guess=len(prompt) // 4 + 1000),
    )


def _message_text(message: object) -> str:
    if not isinstance(message, dict):
        raise Refusal(400, "json: cannot unmarshal value into Go struct field MessagesRequest.messages")
    return _text(message.get("content"))


def _text(content: object) -> str:
    """Return the text of a content, whether it is one or a list of blocks.

    Raises
    ------
    Refusal
        A block cannot be used.
    """
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "".join(_block_text(block) for block in blocks if isinstance(block, dict))


def _block_text(block: dict[str, object]) -> str:
    kind = block.get("type")
    if kind == "image":
        source = block.get("source")
        if not isinstance(source, dict):
            raise Refusal(400, "invalid image source")
        if source.get("type") != "base64":
            found = source.get("type")
            raise Refusal(400, f"invalid image source type: {found}. Only base64 images are supported.")
    if kind == "tool_use" and not (block.get("id") and block.get("name")):
        raise Refusal(400, "tool_use block missing required 'id' field")
    return _text(block.get("content")) if kind == "tool_result" else str(block.get("text", ""))


def _as_function(tool: object) -> object:
    """Return a tool as the chat routes write it."""
    if not isinstance(tool, dict):
        raise Refusal(400, "json: cannot unmarshal value into Go struct field MessagesRequest.tools")
    return {
        "type": "function",
        "function": {"name": tool.get("name"), "parameters": tool.get("input_schema")},
    }


class MessageShape:
    """Events, or the one document, of a message."""

    stream_type = EVENT_STREAM
    whole_type = JSON_BARE

    def __init__(self, run: Run, clock: WallClock, *, guess: int) -> None:  # noqa: ARG002 - every shape is built alike
        self._run = run
        self._guess = guess
        self._id = f"msg_{token_hex(12)}"
        self._started = False
        self._open: str | None = None
        self._index = 0

    @property
    def _stop_reason(self) -> str:
        script = self._run.script
        return "tool_use" if script.tool_calls else _STOP_REASONS[script.done_reason]

    def record(self, index: int) -> bytes:
        """Return the events of one token; those that open the message or a block come with it."""
        return b"".join(self._events(index))

    def _events(self, index: int) -> Iterator[bytes]:
        yield from self._opening()
        piece = self._run.script.pieces[index]
        if piece.kind == "tools":
            yield from self._close_block()
            yield from self._calls()
            return
        field = "thinking" if piece.kind == "thinking" else "text"
        if self._open != field:
            yield from self._close_block()
            self._open = field
            yield _event("content_block_start", index=self._index, content_block={"type": field, field: ""})
        yield self._delta(piece, field)

    def _opening(self) -> Iterator[bytes]:
        if not self._started:
            self._started = True
            start = self._message([], usage={"input_tokens": self._guess, "output_tokens": 0})
            yield _event("message_start", message=start)

    def _delta(self, piece: Piece, field: str) -> bytes:
        delta = {"type": f"{field}_delta", field: msgspec.Raw(piece.json)}
        return _event("content_block_delta", index=self._index, delta=delta)

    def _calls(self) -> Iterator[bytes]:
        for call in self._run.script.tool_calls:
            block: dict[str, object] = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            arguments = {"type": "input_json_delta", "partial_json": go_json(call.arguments).decode()}
            yield _event("content_block_start", index=self._index, content_block=block)
            yield _event("content_block_delta", index=self._index, delta=arguments)
            yield _event("content_block_stop", index=self._index)
            self._index += 1

    def _close_block(self) -> Iterator[bytes]:
        if self._open is not None:
            self._open = None
            yield _event("content_block_stop", index=self._index)
            self._index += 1

    def ending(self) -> bytes:
        """Return what closes block and message; Ollama flushes it together."""
        delta = _event("message_delta", delta={"stop_reason": self._stop_reason}, usage=self._usage())
        return b"".join([*self._opening(), *self._close_block(), delta, _event("message_stop")])

    def whole(self) -> bytes:
        """Return the answer as one document."""
        script = self._run.script
        content: list[dict[str, object]] = []
        if script.thinking:
            content.append({"type": "thinking", "thinking": msgspec.Raw(script.thinking)})
        if script.text != b'""':
            content.append({"type": "text", "text": msgspec.Raw(script.text)})
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
            for call in script.tool_calls
        ]
        return go_json(self._message(content, stop_reason=self._stop_reason, usage=self._usage())) + b"\n"

    def failure(self, message: str) -> bytes:  # noqa: ARG002 - that is the point
        """Return nothing: a message that fails in mid-stream just stops."""
        return b""

    def _message(self, content: list[dict[str, object]], **more: object) -> dict[str, object]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": msgspec.Raw(self._run.echo),
            "content": content,
            **more,
        }

    def _usage(self) -> dict[str, object]:
        return {"input_tokens": self._run.prompt_tokens, "output_tokens": len(self._run.script.pieces)}


def _event(kind: str, **data: object) -> bytes:
    return event(kind, go_json({"type": kind, **data}))
