"""Answers as backends stream them natively and on OpenAI's routes, and readers for them."""

import json

from domain.model_names import canonical
from domain.requests import parse_request
from domain.routes import inference_routes
from domain.stream_reader import StreamReader
from domain.streams import stream_reader

ROUTES = inference_routes()


def ndjson(*objects: object) -> bytes:
    """Write native records."""
    return b"".join(json.dumps(one, separators=(",", ":")).encode() + b"\n" for one in objects)


def sse(*objects: object) -> bytes:
    """Write OpenAI's events."""
    return b"".join(b"data: " + json.dumps(one, separators=(",", ":")).encode() + b"\n\n" for one in objects)


def line(text: str, *, model: str = "llama3:latest", **more: object) -> dict[str, object]:
    """Return a native record of one token."""
    return {"model": model, "created_at": "2026-01-01T00:00:00Z", "response": text, "done": False, **more}


def last_line(**more: object) -> dict[str, object]:
    """Return the native record that ends a stream."""
    return {**line(""), "done": True, "done_reason": "stop", **more}


COUNTS = {
    "total_duration": 90,
    "load_duration": 20,
    "prompt_eval_count": 7,
    "prompt_eval_duration": 30,
    "eval_count": 3,
    "eval_duration": 15,
}
NATIVE = ndjson(line("a"), line("b"), line("c"), last_line(**COUNTS))
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
DONE = b"data: [DONE]\n\n"


def chunk(text: str, finish: str | None = None, **more: object) -> dict[str, object]:
    """Return an OpenAI event of one token."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": "llama3:latest",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}],
        **more,
    }


def usage_chunk(**more: object) -> dict[str, object]:
    """Return the OpenAI event that tells the usage."""
    return {"id": "chatcmpl-1", "model": "llama3:latest", "choices": [], "usage": USAGE, **more}


CONTENT = sse(chunk("a"), chunk("b"), chunk("c"))
FINISH = sse(chunk("", "stop"))
OPENAI = CONTENT + FINISH + sse(usage_chunk()) + DONE


def native(model: str = "llama3") -> StreamReader:
    """Return a reader of a native stream."""
    return reader("/api/generate", model)


def reader(path: str, model: str = "llama3", **fields: object) -> StreamReader:
    """Return a reader of an answer to one route."""
    prompt = {"messages": [{"content": "x"}]} if "chat" in path else {"prompt": "x"}
    request = parse_request(
        ROUTES[path], json.dumps({"model": model, "stream": True, **prompt, **fields}).encode()
    )
    name = canonical(model)
    assert name is not None
    return stream_reader(ROUTES[path], request, name)


def openai(model: str = "llama3", *, wants_usage: bool = False) -> StreamReader:
    """Return a reader of an OpenAI chat."""
    return reader("/v1/chat/completions", model, stream_options={"include_usage": wants_usage})
