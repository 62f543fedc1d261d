"""The ways to ask for the same short answer, streamed or whole in each API family, and how to read what came back."""

import json
from collections.abc import Callable
from typing import Any, Final

import httpx
import msgspec

MODEL: Final = "llama3.2"
MESSAGES: Final = [{"role": "user", "content": "How are you?"}]
PROMPT_CHARS: Final = len("How are you?")
OUTPUT_CAP: Final = 1000

NATIVE: Final = "/api/chat"
OPENAI: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"
ANTHROPIC: Final = "/v1/messages"

_NAMES: Final = {NATIVE: "native", OPENAI: "openai", RESPONSES: "responses", ANTHROPIC: "anthropic"}


class Shape(msgspec.Struct, frozen=True):
    """One API family, streamed or whole."""

    path: str
    stream: bool

    @property
    def native(self) -> bool:
        """Whether it is Ollama's own API."""
        return self.path == NATIVE

    @property
    def family(self) -> str:
        """The family's name, as the ledger has it."""
        return _NAMES[self.path]

    def body(self, model: str = MODEL, **fields: Any) -> dict[str, Any]:
        """Return a request."""
        body: dict[str, Any] = {"model": model, "stream": self.stream}
        if self.path == RESPONSES:
            return body | {"input": MESSAGES[0]["content"], **fields}
        if self.path == ANTHROPIC:
            body["max_tokens"] = OUTPUT_CAP
        return body | {"messages": MESSAGES, **fields}

    def cap(self, tokens: int) -> dict[str, Any]:
        """Return the fields that ask for at most so many tokens of output."""
        if self.native:
            return {"options": {"num_predict": tokens}}
        return {"max_output_tokens" if self.path == RESPONSES else "max_tokens": tokens}

    def __str__(self) -> str:
        return f"{self.family}-{'stream' if self.stream else 'whole'}"


NATIVE_STREAM: Final = Shape(NATIVE, stream=True)
NATIVE_WHOLE: Final = Shape(NATIVE, stream=False)
OPENAI_STREAM: Final = Shape(OPENAI, stream=True)
OPENAI_WHOLE: Final = Shape(OPENAI, stream=False)
RESPONSES_STREAM: Final = Shape(RESPONSES, stream=True)
RESPONSES_WHOLE: Final = Shape(RESPONSES, stream=False)
ANTHROPIC_STREAM: Final = Shape(ANTHROPIC, stream=True)
ANTHROPIC_WHOLE: Final = Shape(ANTHROPIC, stream=False)
STREAMS: Final = (NATIVE_STREAM, OPENAI_STREAM, RESPONSES_STREAM, ANTHROPIC_STREAM)
WHOLES: Final = (NATIVE_WHOLE, OPENAI_WHOLE, RESPONSES_WHOLE, ANTHROPIC_WHOLE)
SHAPES: Final = tuple(shape for pair in zip(STREAMS, WHOLES, strict=True) for shape in pair)


async def ask(
    client: httpx.AsyncClient, shape: Shape = NATIVE_WHOLE, model: str = MODEL, **fields: Any
) -> httpx.Response:
    """Ask and return the reply with its whole body."""
    return await client.post(shape.path, json=shape.body(model, **fields))


def records(reply: httpx.Response) -> list[Any]:
    """Return the records of a streamed reply, decoded and without heartbeats; `[DONE]` stays text."""
    if reply.headers["content-type"].startswith("application/x-ndjson"):
        return [json.loads(line) for line in reply.content.splitlines()]
    told = reply.content.decode().removesuffix("\n\n").split("\n\n")
    events = [event for event in told if not event.startswith(":")]
    data = [event[event.index("data: ") :].removeprefix("data: ") for event in events]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def _native_text(record: Any) -> str:
    return str(record["message"]["content"]) if "message" in record else ""


def _openai_text(record: Any) -> str:
    choices = record["choices"] if isinstance(record, dict) and "choices" in record else []
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def _responses_text(record: Any) -> str:
    return str(record["delta"]) if record["type"] == "response.output_text.delta" else ""


def _anthropic_text(record: Any) -> str:
    return str(record["delta"].get("text", "")) if record["type"] == "content_block_delta" else ""


_TEXTS: Final[dict[str, Callable[[Any], str]]] = {
    NATIVE: _native_text,
    OPENAI: _openai_text,
    RESPONSES: _responses_text,
    ANTHROPIC: _anthropic_text,
}
_WHOLE_TEXTS: Final[dict[str, Callable[[Any], str]]] = {
    NATIVE: _native_text,
    OPENAI: lambda body: str(body["choices"][0]["message"]["content"]),
    RESPONSES: lambda body: str(body["output"][-1]["content"][0]["text"]),
    ANTHROPIC: lambda body: str(body["content"][-1]["text"]),
}


def answer_of(shape: Shape, reply: httpx.Response) -> str:
    """Return the text of an answer."""
    if not shape.stream:
        return _WHOLE_TEXTS[shape.path](reply.json())
    return "".join(map(_TEXTS[shape.path], records(reply)))


def tokens_in(shape: Shape, reply: httpx.Response) -> int:
    """Return how many tokens of text a streamed reply carries: one in each record of text."""
    return sum(1 for record in records(reply) if record != "[DONE]" and _TEXTS[shape.path](record))


def models_in(shape: Shape, reply: httpx.Response) -> set[str]:
    """Return every model name that stands in a reply."""
    parts = records(reply) if shape.stream else [reply.json()]
    places = [
        place
        for part in parts
        if part != "[DONE]"
        for place in (part, part.get("response"), part.get("message"))
        if isinstance(place, dict)
    ]
    return {place["model"] for place in places if "model" in place}


def words_of(reply: httpx.Response) -> bytes:
    """Return a refusal's body without the request's id, which Anthropic's shape repeats."""
    return reply.content.replace(reply.headers["x-request-id"].encode(), b"")


def is_refusal(shape: Shape, reply: httpx.Response) -> bool:
    """Tell whether the body is an error in the family's own shape and nothing else."""
    body = reply.json()
    if shape.native:
        return list(body) == ["error"] and isinstance(body["error"], str)
    error = body.get("error")
    if shape.path == ANTHROPIC:
        return (
            list(body) == ["type", "error", "request_id"]
            and (body["type"], set(error)) == ("error", {"type", "message"})
            and body["request_id"] == reply.headers["x-request-id"]
        )
    return (
        list(body) == ["error"]
        and isinstance(error, dict)
        and {"message", "type", "param", "code"} == set(error)
    )


def ends_in_error(shape: Shape, reply: httpx.Response) -> bool:
    """Tell whether a stream's last record, and only that, is an error in the family's own shape."""
    *told, last = records(reply)
    if shape.path == RESPONSES:
        numbers = [record["sequence_number"] for record in [*told, last]]
        return (
            all(record["type"] not in {"response.completed", "response.failed"} for record in told)
            and (last["type"], last["response"]["status"]) == ("response.failed", "failed")
            and set(last["response"]["error"]) == {"code", "message"}
            and numbers == sorted(set(numbers))
        )
    if shape.path == ANTHROPIC:
        return (
            all(record["type"] not in {"message_stop", "error"} for record in told)
            and list(last) == ["type", "error"]
            and (last["type"], set(last["error"])) == ("error", {"type", "message"})
        )
    if any(record == "[DONE]" or "error" in record or record.get("done") for record in told):
        return False
    if last == "[DONE]" or list(last) != ["error"]:
        return False
    return isinstance(last["error"], str if shape.native else dict)
