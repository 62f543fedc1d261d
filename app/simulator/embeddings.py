"""Embedding routes: vectors that depend on nothing but the text."""

import base64
import hashlib
import math
import struct
from functools import lru_cache, partial
from typing import Final

from app.simulator.decode import Body, Refusal, integer_field, text_field
from app.simulator.jobs import Host, Job, Quick, require_model
from app.simulator.loading import keep_alive_ns
from app.simulator.script import count_tokens
from app.simulator.wire import JSON_BARE, JSON_UTF8, go_json

EMBED_FIELDS: Final = frozenset(["model", "input", "truncate", "dimensions", "keep_alive", "options"])
EMBEDDINGS_FIELDS: Final = frozenset(["model", "prompt", "keep_alive", "options"])
V1_EMBEDDINGS_FIELDS: Final = frozenset(["model", "input", "dimensions", "encoding_format"])

_HINT: Final = ", try pulling it first"


@lru_cache(maxsize=4096)
def direction(text: str, length: int) -> tuple[float, ...]:
    """Return the raw vector of a text: `length` numbers between -1 and 1, not normalised."""
    digest = hashlib.shake_256(text.encode()).digest(2 * length)
    return tuple(number / 32768 for number in struct.unpack(f"<{length}h", digest))


@lru_cache(maxsize=4096)
def unit_vector(text: str, length: int, dimensions: int) -> tuple[float, ...]:
    """Return the vector of a text cut to `dimensions` and normalised, rounded as float32 JSON would be."""
    kept = direction(text, length)[:dimensions]
    norm = math.sqrt(math.fsum(number * number for number in kept)) or 1.0
    return tuple(round(number / norm, 8) for number in kept)


def plan_embed(body: Body, host: Host) -> Job:
    """Read a `/api/embed` request; raises `Refusal`."""
    name = text_field(body, "model")
    inputs = _inputs(body.get("input"))
    dimensions = integer_field(body, "dimensions") or 0
    keep_alive = keep_alive_ns(body.get("keep_alive"))
    model = require_model(host, name, quoted='"{}"', hint=_HINT)
    length = model.embedding_length
    vectors = [unit_vector(text, length, dimensions or length) for text in inputs]
    tokens = sum(map(count_tokens, inputs))

    def answer(load_ns: int, total_ns: int) -> bytes:
        body = b'{"model":%b,"embeddings":%b' % (go_json(name), go_json(vectors))
        if not tokens:
            return body + b"}"
        return body + b',"total_duration":%d,"load_duration":%d,"prompt_eval_count":%d}' % (
            total_ns,
            load_ns,
            tokens,
        )

    return Quick(model=model, content_type=JSON_UTF8, body=answer, keep_alive=keep_alive)


def plan_embeddings(body: Body, host: Host) -> Job:
    """Read a legacy `/api/embeddings` request; raises `Refusal`."""
    prompt = text_field(body, "prompt")
    keep_alive = keep_alive_ns(body.get("keep_alive"))
    model = require_model(host, text_field(body, "model"), quoted='"{}"', hint=_HINT)
    vector = direction(prompt, model.embedding_length) if prompt else ()
    return Quick(
        model=model,
        content_type=JSON_UTF8,
        body=lambda _load_ns, _total_ns: go_json({"embedding": vector}),
        keep_alive=keep_alive,
    )


def plan_v1_embeddings(body: Body, host: Host) -> Job:
    """Read a `/v1/embeddings` request; raises `Refusal`."""
    name = text_field(body, "model")
    encoding = text_field(body, "encoding_format").lower()
    if encoding not in {"", "float", "base64"}:
        raise Refusal(
            400, f"Invalid value for 'encoding_format' = {encoding}. Supported values: ['float', 'base64']."
        )
    given = body.get("input")
    if given is None or given == []:
        raise Refusal(400, "invalid input")
    inputs = _inputs(given) or [""]
    dimensions = integer_field(body, "dimensions") or 0
    model = require_model(host, name, quoted='"{}"', hint=_HINT)
    length = model.embedding_length
    vectors = [unit_vector(text, length, dimensions or length) for text in inputs]
    tokens = sum(map(count_tokens, inputs))
    answer: dict[str, object] = {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "embedding": _base64(vector) if encoding == "base64" else vector,
                "index": index,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return Quick(model=model, content_type=JSON_BARE, body=partial(_encoded, answer))


def _encoded(answer: dict[str, object], _load_ns: int, _total_ns: int) -> bytes:
    return go_json(answer) + b"\n"


def _base64(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _inputs(given: object) -> list[str]:
    if given is None or given == "":
        return []
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and all(isinstance(item, str) for item in given):
        return given
    raise Refusal(400, "invalid input type")
