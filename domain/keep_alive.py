"""`keep_alive`: how long a backend keeps a model loaded, in the two notations Ollama takes."""

import re

from domain.errors import BadRequest

_NS_PER_S = 1_000_000_000
_LONGEST_TEXT = 128
_LARGEST_NS = 2**63 - 1
_UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": _NS_PER_S,
    "m": 60 * _NS_PER_S,
    "h": 3_600 * _NS_PER_S,
}
_STEP = re.compile(r"(\d*)(?:\.(\d*))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)", re.ASCII)


def keep_alive_ns(value: object) -> int | None:
    """Return a request's keep_alive in nanoseconds: negative means for ever, None leaves it to the backend.

    Numbers are seconds; text is a Go duration with units (`5m`, `1h30m`).

    Raises
    ------
    BadRequest
        Anything else, as on Ollama itself: booleans, numbers in text without a unit.
    """
    if value is None:
        return None
    if isinstance(value, str):
        parsed = _duration_ns(value)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        parsed = None
    else:
        parsed = int(min(value, _LARGEST_NS) * _NS_PER_S) if value >= 0 else -1
    if parsed is None:
        raise BadRequest("'keep_alive' must be a number of seconds or a duration with a unit, such as \"5m\"")
    return parsed


def _duration_ns(text: str) -> int | None:
    if len(text) > _LONGEST_TEXT:
        return None
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in {"-", "+"} else text
    if rest == "0":
        return 0
    total, end = 0, 0
    while end < len(rest):
        step = _STEP.match(rest, end)
        if step is None:
            return None
        whole, fraction, unit = step[1], step[2] or "", _UNIT_NS[step[3]]
        if not whole and not fraction:
            return None
        total += int(whole or "0") * unit + int(fraction or "0") * unit // 10 ** len(fraction)
        end = step.end()
    return sign * total if rest and total <= _LARGEST_NS else None
