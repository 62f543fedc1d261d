"""The four ways to ask for the same short answer, and how to read what came back."""

import json
from typing import Any, Final

import httpx
import msgspec

MODEL: Final = "llama3.2"
MESSAGES: Final = [{"role": "user", "content": "How are you?"}]
PROMPT_CHARS: Final = len("How are you?")


class Shape(msgspec.Struct, frozen=True):
    """One API family, streamed or whole."""

    path: str
    stream: bool

    @property
    def native(self) -> bool:
        """Whether it is Ollama's own API."""
        return self.path.startswith("/api/")

    def body(self, model: str = MODEL, **fields: Any) -> dict[str, Any]:
        """Return a request."""
        return {"model": model, "messages": MESSAGES, "stream": self.stream, **fields}

    def __str__(self) -> str:
        return f"{'native' if self.native else 'openai'}-{'stream' if self.stream else 'whole'}"


NATIVE_STREAM: Final = Shape("/api/chat", stream=True)
NATIVE_WHOLE: Final = Shape("/api/chat", stream=False)
OPENAI_STREAM: Final = Shape("/v1/chat/completions", stream=True)
OPENAI_WHOLE: Final = Shape("/v1/chat/completions", stream=False)
SHAPES: Final = (NATIVE_STREAM, NATIVE_WHOLE, OPENAI_STREAM, OPENAI_WHOLE)
STREAMS: Final = (NATIVE_STREAM, OPENAI_STREAM)


async def ask(
    client: httpx.AsyncClient, shape: Shape = NATIVE_WHOLE, model: str = MODEL, **fields: Any
) -> httpx.Response:
    """Ask and return the reply with its whole body."""
    return await client.post(shape.path, json=shape.body(model, **fields))


def records(reply: httpx.Response) -> list[Any]:
    """Return the records of a streamed reply, decoded; `[DONE]` stays text."""
    if reply.headers["content-type"].startswith("application/x-ndjson"):
        return [json.loads(line) for line in reply.content.splitlines()]
    events = reply.content.decode().removesuffix("\n\n").split("\n\n")
    data = [event.removeprefix("data: ") for event in events]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def answer_of(shape: Shape, reply: httpx.Response) -> str:
    """Return the text of an answer."""
    if shape.native:
        parts = records(reply) if shape.stream else [reply.json()]
        return "".join(part["message"]["content"] for part in parts if "message" in part)
    if not shape.stream:
        return str(reply.json()["choices"][0]["message"]["content"])
    chunks = [record for record in records(reply) if record != "[DONE]" and "choices" in record]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])


def is_refusal(shape: Shape, reply: httpx.Response) -> bool:
    """Tell whether the body is an error in the family's own shape and nothing else."""
    body = reply.json()
    if shape.native:
        return list(body) == ["error"] and isinstance(body["error"], str)
    error = body.get("error")
    return (
        list(body) == ["error"]
        and isinstance(error, dict)
        and {"message", "type", "param", "code"} == set(error)
    )


def ends_in_error(shape: Shape, reply: httpx.Response) -> bool:
    """Tell whether a stream's last record, and only that, is an error in the family's own shape."""
    *told, last = records(reply)
    if any(record == "[DONE]" or "error" in record or record.get("done") for record in told):
        return False
    if last == "[DONE]" or list(last) != ["error"]:
        return False
    return isinstance(last["error"], str if shape.native else dict)
