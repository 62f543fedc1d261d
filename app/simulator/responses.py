"""`/v1/responses` as Ollama offers it: stateless, with events of its own."""

import random
import time
from collections.abc import Iterator
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
from app.simulator.script import ToolCall, count_tokens
from app.simulator.wire import EVENT_STREAM, JSON_BARE, WallClock, event, go_json

FIELDS: Final = frozenset(
    {
        "model",
        "background",
        "conversation",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "reasoning",
        "temperature",
        "text",
        "top_p",
        "truncation",
        "tools",
        "stream",
    }
)
_EFFORTS: Final = frozenset({"none", "low", "medium", "high", "max"})
_ITEMS: Final = frozenset({"message", "function_call", "function_call_output", "reasoning"})
_CONTENTS: Final = frozenset({"input_text", "output_text", "input_image"})
_ID_RANGE: Final = 999_999


def plan_response(body: Body, host: Host) -> Job:
    """Read a request.

    Raises
    ------
    Refusal
        The request is answered with an error.
    """
    texts = [text_field(body, "instructions"), *_input_texts(body.get("input"))]
    name = text_field(body, "model")
    if not name:
        raise Refusal(400, "model is required")
    effort = object_field(body, "reasoning").get("effort") or ""
    if effort and effort not in _EFFORTS:
        raise Refusal(
            400,
            f'invalid reasoning value: "{effort}" (must be "high", "medium", "low", "max", or "none")',
        )
    stream = flag_field(body, "stream", default=False)
    cap = output_cap(integer_field(body, "max_output_tokens"))
    tools = [_as_function(tool) for tool in list_field(body, "tools")]
    model = require_model(host, name)
    require_capability(model, name, "completion", "chat")
    if tools:
        require_capability(model, name, "tools", "tools")
    can_think = "thinking" in model.capabilities
    if effort not in {"", "none"} and not can_think:
        raise Refusal(400, f'"{name}" does not support thinking')
    wanted = object_field(object_field(body, "text"), "format")
    script = compose(
        host,
        prompt=texts[-1],
        cap=cap,
        think=can_think and effort != "none",
        tools=tools,
        schema=wanted.get("schema") if wanted.get("type") == "json_schema" else None,
    )
    return Spoken(
        model=model,
        echo=go_json(name),
        script=script,
        prompt_tokens=count_tokens("".join(texts)),
        stream=stream,
        shape=lambda run, clock: ResponseShape(run, clock, body),
    )


def _input_texts(given: object) -> list[str]:
    """Return the text of each item."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        raise Refusal(400, "input must be a string or array: json: cannot unmarshal value")
    return [_item_text(index, item) for index, item in enumerate(given)] or [""]


def _item_text(index: int, item: object) -> str:
    if not isinstance(item, dict):
        raise Refusal(400, f"input[{index}]: json: cannot unmarshal value into Go value")
    kind = item.get("type") or ("message" if item.get("role") else "")
    if not kind:
        raise Refusal(400, f"input[{index}]: input item missing required 'type' field")
    if kind not in _ITEMS:
        raise Refusal(400, f'input[{index}]: unknown input item type: "{kind}"')
    content = item.get("content") or item.get("output") or item.get("arguments") or ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    for part in parts:
        found = part.get("type") if isinstance(part, dict) else ""
        if found == "input_file":
            raise Refusal(400, "file inputs are not currently supported")
        if found not in _CONTENTS:
            raise Refusal(400, f"input[{index}]: content[0]: unknown content type: {found}")
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _as_function(tool: object) -> object:
    """Return a tool as the chat routes write it."""
    if not isinstance(tool, dict):
        raise Refusal(400, "json: cannot unmarshal value into Go struct field ResponsesRequest.tools")
    return {"type": "function", "function": {"name": tool.get("name"), "parameters": tool.get("parameters")}}


def _go_map(value: dict[str, object]) -> bytes:
    """Return a JSON object as Go writes a map: its keys in order."""
    raw = msgspec.json.encode(value, order="sorted")
    return raw.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")


class ResponseShape:
    """Events, or the one document, of a response. Every answer repeats what the request asked for."""

    stream_type = EVENT_STREAM
    whole_type = JSON_BARE

    def __init__(self, run: Run, clock: WallClock, request: Body) -> None:  # noqa: ARG002 - every shape is built alike
        self._run = run
        self._request = request
        number = random.randrange(_ID_RANGE)  # an id, no secret  # nosec B311
        self._id = f"resp_{number}"
        self._item_id = f"msg_{number}"
        self._thought_id = f"rs_{number}"
        self._call_id = f"fc_{number}"
        self._sequence = 0
        self._output_index = 0
        self._thinks = False
        self._speaks = False

    def record(self, index: int) -> bytes:
        """Return the events of one token; those that open the response, an item or its content come with it."""
        return b"".join(self._events(index))

    def _events(self, index: int) -> Iterator[bytes]:
        piece = self._run.script.pieces[index]
        yield from self._opening()
        if piece.kind == "thinking":
            if not self._thinks:
                self._thinks = True
                yield self._item("added", {"id": self._thought_id, "type": "reasoning", "summary": []})
            yield self._event(
                "response.reasoning_summary_text.delta",
                item_id=self._thought_id,
                output_index=self._output_index,
                summary_index=0,
                delta=msgspec.Raw(piece.json),
            )
            return
        yield from self._end_of_thoughts()
        if piece.kind == "tools":
            for number, call in enumerate(self._run.script.tool_calls):
                yield from self._call(number, call)
            return
        if not self._speaks:
            self._speaks = True
            yield self._item("added", self._message("in_progress", []))
            yield self._part("added", b'""')
        yield self._event(
            "response.output_text.delta",
            item_id=self._item_id,
            output_index=self._output_index,
            content_index=0,
            delta=msgspec.Raw(piece.json),
            logprobs=[],
        )

    def _opening(self) -> Iterator[bytes]:
        if self._sequence == 0:
            opened = self._response("in_progress", output=[], usage=None)
            yield self._event("response.created", response=opened)
            yield self._event("response.in_progress", response=opened)

    def ending(self) -> bytes:
        """Return what closes items and response; Ollama flushes it together."""
        events = [*self._opening(), *self._end_of_thoughts()]
        if self._speaks:
            text = self._run.script.text
            events.append(
                self._event(
                    "response.output_text.done",
                    item_id=self._item_id,
                    output_index=self._output_index,
                    content_index=0,
                    text=msgspec.Raw(text),
                    logprobs=[],
                )
            )
            events.append(self._part("done", text))
            events.append(self._item("done", self._message("completed", [_output_text(text)])))
        events.append(self._event("response.completed", response=self._completed()))
        return b"".join(events)

    def whole(self) -> bytes:
        """Return the answer as one document."""
        return go_json(self._completed()) + b"\n"

    def failure(self, message: str) -> bytes:  # noqa: ARG002 - that is the point
        """Return nothing: a response that fails in mid-stream just stops."""
        return b""

    def _event(self, kind: str, **data: object) -> bytes:
        number = self._sequence
        self._sequence += 1
        return event(kind, _go_map({**data, "type": kind, "sequence_number": number}))

    def _item(self, what: str, item: dict[str, object], index: int = 0) -> bytes:
        return self._event(f"response.output_item.{what}", output_index=self._output_index + index, item=item)

    def _part(self, what: str, text: bytes) -> bytes:
        return self._event(
            f"response.content_part.{what}",
            item_id=self._item_id,
            output_index=self._output_index,
            content_index=0,
            part=_output_text(text),
        )

    def _end_of_thoughts(self) -> Iterator[bytes]:
        if not self._thinks:
            return
        self._thinks = False
        yield self._event(
            "response.reasoning_summary_text.done",
            item_id=self._thought_id,
            output_index=self._output_index,
            summary_index=0,
            text=msgspec.Raw(self._run.script.thinking),
        )
        yield self._item("done", self._thought())
        self._output_index += 1

    def _call(self, number: int, call: ToolCall) -> Iterator[bytes]:
        done = self._function_call(number, call)
        arguments = done["arguments"]
        where = {"item_id": done["id"], "output_index": self._output_index + number}
        yield self._item("added", {**done, "status": "in_progress", "arguments": ""}, number)
        yield self._event("response.function_call_arguments.delta", **where, delta=arguments)
        yield self._event("response.function_call_arguments.done", **where, arguments=arguments)
        yield self._item("done", done, number)

    def _thought(self) -> dict[str, object]:
        thinking = msgspec.Raw(self._run.script.thinking)
        return {
            "id": self._thought_id,
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": thinking}],
            "encrypted_content": thinking,
        }

    def _message(self, status: str, content: list[dict[str, object]]) -> dict[str, object]:
        return {
            "id": self._item_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _function_call(self, number: int, call: ToolCall) -> dict[str, object]:
        return {
            "id": f"{self._call_id}_{number}",
            "type": "function_call",
            "status": "completed",
            "call_id": call.id,
            "name": call.name,
            "arguments": go_json(call.arguments).decode(),
        }

    def _completed(self) -> dict[str, object]:
        run, script = self._run, self._run.script
        output: list[dict[str, object]] = [self._thought()] if script.thinking else []
        if script.tool_calls:
            output += [self._function_call(number, call) for number, call in enumerate(script.tool_calls)]
        else:
            output.append(self._message("completed", [_output_text(script.text)]))
        said = len(script.pieces)
        usage = {
            "input_tokens": run.prompt_tokens,
            "output_tokens": said,
            "total_tokens": run.prompt_tokens + said,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        response = self._response("completed", output=output, usage=usage)
        return {**response, "completed_at": int(time.time())}

    def _response(
        self, status: str, *, output: list[dict[str, object]], usage: dict[str, object] | None
    ) -> dict[str, object]:
        request = self._request
        reasoning = object_field(request, "reasoning")
        wanted = object_field(request, "text").get("format") or {"type": "text"}
        return {
            "id": self._id,
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": status,
            "incomplete_details": None,
            "model": msgspec.Raw(self._run.echo),
            "previous_response_id": None,
            "instructions": request.get("instructions") or None,
            "output": output,
            "error": None,
            "tools": list_field(request, "tools"),
            "tool_choice": "auto",
            "truncation": request.get("truncation", "disabled"),
            "parallel_tool_calls": True,
            "text": {"format": wanted},
            "top_p": request.get("top_p", 1.0),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": request.get("temperature", 1.0),
            "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")}
            if reasoning
            else None,
            "usage": usage,
            "max_output_tokens": request.get("max_output_tokens"),
            "max_tool_calls": None,
            "store": False,
            "background": request.get("background", False),
            "service_tier": "default",
            "metadata": {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }


def _output_text(text: bytes) -> dict[str, object]:
    return {"type": "output_text", "text": msgspec.Raw(text), "annotations": [], "logprobs": []}
