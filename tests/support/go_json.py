"""How Go's decoder reads a request body into Ollama's structs: the other opinion our strict reading must share.

A port of the rules, not of code: exact names first, then names equal under simple case folding; the last of
several keys wins, null changes nothing, objects merge into maps, what follows the first value is ignored.
Needs no Go, so that Hypothesis can ask it body by body; `tests.support.go_decoder` asks Go itself.
"""

import json
from typing import NamedTuple

FOLDS = {"\u017f": "s", "\u212a": "k"}


class GoRequest(NamedTuple):
    """What Ollama would run."""

    model: str
    stream: bool | None
    options: dict[str, object]
    include_usage: bool


class _Pairs(list[tuple[str, object]]):
    """An object as it stands in the text."""


def read_request(body: bytes, *, options: str | None) -> GoRequest:
    """Return what a handler of Ollama's sees of a body; raises ValueError where it answers 400.

    `options` is the field in which its route takes options: `options`, `stream_options` or none.
    """
    fields = ("model", "stream", *([options] if options else []))
    pairs, _ = json.JSONDecoder(object_pairs_hook=_Pairs).raw_decode(body.decode().lstrip(" \t\r\n"))
    if not isinstance(pairs, _Pairs):
        raise ValueError("no object")  # noqa: TRY004 - what a 400 is here
    model, stream, chosen, include_usage = "", None, dict[str, object](), False
    for key, value in pairs:
        match _field(key, fields), value:
            case ("model", str()):
                model = value
            case ("stream", bool() | None):
                stream = value
            case ("options", None):
                chosen = {}
            case ("options", _Pairs()):
                chosen = chosen | dict(value)
            case ("stream_options", _Pairs()):
                for inner, flag in value:
                    if _field(inner, ("include_usage",)) and isinstance(flag, bool):
                        include_usage = flag
            case (str(), _) if value is not None:
                raise ValueError(key)
    return GoRequest(model, stream, chosen, include_usage)


def _field(key: str, names: tuple[str, ...]) -> str | None:
    if key in names:
        return key
    folded = "".join(FOLDS.get(letter, letter.lower() if letter.isascii() else letter) for letter in key)
    return folded if folded in names else None
