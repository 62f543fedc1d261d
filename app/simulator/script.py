"""What a simulated model says: fixed words, cut into records of one token each."""

from collections.abc import Mapping
from functools import lru_cache
from itertools import cycle, islice
from typing import Final, Literal, NamedTuple

import msgspec

from app.simulator.wire import go_json

Kind = Literal["text", "thinking", "tools"]

# Beyond ASCII on purpose, and with the characters Go escapes: relays must not touch the bytes.
_WORDS: Final = (
    " is", " a", " simulated", " answer", ":", " every", " word", " costs", " one", " token", ",",
    " café", " and", " 你好", " &", " <b>", " included", ".", " It", " says", " the", " same",
    " thing", " each", " time", ".", " This",
)  # fmt: skip
_THOUGHTS: Final = ("Let", " me", " think", " about", " that", " for", " a", " while", ".", "\n")
_JSON_PIECE_CHARS: Final = 4


class Piece(NamedTuple):
    """One record's worth of output, one token. `json` is its text as a JSON string literal."""

    kind: Kind
    json: bytes


class ToolCall(msgspec.Struct, frozen=True):
    """One function call the model asks for."""

    id: str
    name: str
    arguments: dict[str, object]


class Script(msgspec.Struct, frozen=True):
    """A whole answer. `text` and `thinking` are JSON string literals, `thinking` empty when there is none."""

    pieces: tuple[Piece, ...]
    text: bytes
    thinking: bytes = b""
    tool_calls: tuple[ToolCall, ...] = ()
    done_reason: Literal["stop", "length"] = "stop"


@lru_cache(maxsize=1024)
def spoken(name: str, tokens: int, thinking_tokens: int, cap: int | None) -> Script:
    """Return an answer of `tokens` tokens, `thinking_tokens` of them thoughts, cut at `cap`.

    The first words name the server, so that whoever reads the answer knows who gave it.
    """
    words = islice((name, *islice(cycle(_WORDS), max(0, tokens - 1))), tokens - thinking_tokens)
    thoughts = islice(cycle(_THOUGHTS), thinking_tokens)
    return _cut([("thinking", word) for word in thoughts] + [("text", word) for word in words], cap)


@lru_cache(maxsize=256)
def structured(text: str, cap: int | None) -> Script:
    """Return an answer that spells `text` (a JSON document) in small pieces."""
    starts = range(0, len(text), _JSON_PIECE_CHARS)
    return _cut([("text", text[start : start + _JSON_PIECE_CHARS]) for start in starts], cap)


def calling(call: ToolCall) -> Script:
    """Return an answer that is one tool call; it arrives whole, as one record."""
    return Script(pieces=(Piece("tools", b'""'),), text=b'""', tool_calls=(call,))


def _cut(said: list[tuple[Kind, str]], cap: int | None) -> Script:
    short = cap is not None and cap < len(said)
    kept = said[:cap] if short else said
    thinking = "".join(word for kind, word in kept if kind == "thinking")
    return Script(
        pieces=tuple(Piece(kind, go_json(word)) for kind, word in kept),
        text=go_json("".join(word for kind, word in kept if kind == "text")),
        thinking=go_json(thinking) if thinking else b"",
        done_reason="length" if short else "stop",
    )


def instance_of(schema: object) -> object:
    """Return a small value that satisfies the plain parts of a JSON schema."""
    if not isinstance(schema, Mapping):
        return {}
    if "const" in schema:
        return schema["const"]
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return choices[0]
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        return {name: instance_of(part) for name, part in properties.items()}
    if schema.get("type") == "array":
        return [instance_of(schema["items"])] if "items" in schema else []
    scalars: dict[object, object] = {
        "string": "text",
        "integer": 1,
        "number": 1.5,
        "boolean": True,
        "null": None,
    }
    return scalars.get(schema.get("type"), {})


def count_tokens(text: str) -> int:
    """Return the tokens of a prompt: a quarter of its bytes in UTF-8, at least one."""
    return max(1, len(text.encode()) // 4)
