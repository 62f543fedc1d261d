"""Which fields option policies decide on, what each may be told, and what holds where nobody said anything."""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, NamedTuple

import msgspec

from domain.errors import BadRequest
from domain.keep_alive import keep_alive_ns
from domain.tenants import ControlError
from domain.values import OptionPolicy, OptionRule, PolicyAction

MAX_COUNT: Final = 2**31 - 1
"""What Ollama's own numbers hold."""
MAX_OUTPUT_TOKENS: Final = 10_000_000
"""More output is never asked for, whatever a client or a policy says."""
THINK_LEVELS: Final = ("low", "medium", "high", "max")
OUTPUT_CAP_FIELD: Final = "num_predict"
"""The field that stands for the output cap of every API family."""

_ALLOW, _STRIP, _REJECT = PolicyAction.ALLOW, PolicyAction.STRIP, PolicyAction.REJECT
_CLAMP, _SET = PolicyAction.CLAMP, PolicyAction.SET


class PolicyInvalid(ControlError):  # noqa: N818 - reads as what happened
    """A rule makes no sense for its field. `part` is the part of the rule at fault, None for the whole."""

    def __init__(self, sentence: str, part: str | None = None) -> None:
        super().__init__(sentence)
        self.part = part


class Kind(Enum):
    """What sort of value a field has, which decides the actions that make sense."""

    COUNT = auto()
    OUTPUT_CAP = auto()
    DURATION = auto()
    FLAG = auto()
    TEXT = auto()
    EFFORT = auto()
    OPAQUE = auto()


class PolicyField(NamedTuple):
    """One field. Below `lowest` a number means "as you like" to Ollama; `highest` bounds what a rule may say."""

    kind: Kind
    lowest: int = 0
    highest: int = MAX_COUNT


FIELDS: Final[Mapping[str, PolicyField]] = {
    "num_predict": PolicyField(Kind.OUTPUT_CAP, 1, MAX_OUTPUT_TOKENS),
    "keep_alive": PolicyField(Kind.DURATION),
    "num_ctx": PolicyField(Kind.COUNT, 1),
    "num_batch": PolicyField(Kind.COUNT, 1),
    "num_gpu": PolicyField(Kind.COUNT),
    "main_gpu": PolicyField(Kind.COUNT),
    "num_thread": PolicyField(Kind.COUNT, 1),
    "draft_num_predict": PolicyField(Kind.COUNT),
    "use_mmap": PolicyField(Kind.FLAG),
    "shift": PolicyField(Kind.FLAG),
    "template": PolicyField(Kind.TEXT),
    "system": PolicyField(Kind.TEXT),
    "raw": PolicyField(Kind.FLAG),
    "context": PolicyField(Kind.OPAQUE),
    "think": PolicyField(Kind.EFFORT),
}

DEFAULTS: Final[Mapping[str, OptionRule]] = {
    # The default output cap of the process stands in where a client names none.
    "num_predict": OptionRule(_CLAMP),
    # One value for everybody who uses the model: 0 would unload it, a negative one pin it.
    "keep_alive": OptionRule(_STRIP),
    # Part of how a model is loaded: another value than the loaded one throws the model out for everybody.
    **dict.fromkeys(
        (
            "num_ctx",
            "num_batch",
            "num_gpu",
            "main_gpu",
            "num_thread",
            "draft_num_predict",
            "use_mmap",
            "shift",
        ),
        OptionRule(_STRIP),
    ),
    # A program in Go's template language, which the server would run.
    "template": OptionRule(_STRIP),
    # What a caller could put into its prompt just as well, and what editors need to complete code.
    **dict.fromkeys(("system", "raw", "context", "think"), OptionRule(_ALLOW)),
}

_ACTIONS: Final = {
    Kind.COUNT: (_ALLOW, _STRIP, _REJECT, _CLAMP, _SET),
    Kind.OUTPUT_CAP: (_ALLOW, _STRIP, _REJECT, _CLAMP, _SET),
    Kind.DURATION: (_ALLOW, _STRIP, _REJECT, _CLAMP, _SET),
    Kind.FLAG: (_ALLOW, _STRIP, _REJECT, _SET),
    Kind.TEXT: (_ALLOW, _STRIP, _REJECT, _SET),
    Kind.EFFORT: (_ALLOW, _STRIP, _REJECT, _SET),
    Kind.OPAQUE: (_ALLOW, _STRIP, _REJECT),
}
_PARTS: Final = {_CLAMP: ("min", "max", "value"), _SET: ("value",)}


def checked_rule(field: str, document: object) -> OptionRule:
    """Return one rule of a policy, read from `{action, min?, max?, value?}`.

    Raises
    ------
    PolicyInvalid
        There is no such field, or the rule makes no sense for it; the sentence says what would.
    """
    try:
        rule = msgspec.convert(document, OptionRule)
    except msgspec.ValidationError as error:
        raise PolicyInvalid(f"the rule for {field!r} cannot be read: {error}") from None
    check_rule(field, rule)
    return rule


def check_rule(field: str, rule: OptionRule) -> None:
    """Refuse a rule that makes no sense for its field.

    Raises
    ------
    PolicyInvalid
        As `checked_rule` does.
    """
    policed = FIELDS.get(field)
    if policed is None:
        raise PolicyInvalid(f"no policy can be set for {field!r}; choose one of {', '.join(sorted(FIELDS))}")
    actions = _ACTIONS[policed.kind]
    if rule.action not in actions:
        raise PolicyInvalid(
            f"{field!r} takes no {rule.action.value!r}; choose one of {', '.join(actions)}", "action"
        )
    given = {"min": rule.minimum, "max": rule.maximum, "value": rule.value}
    parts = {name: part for name, part in given.items() if part is not None}
    for name, part in parts.items():
        if name not in _PARTS.get(rule.action, ()):
            raise PolicyInvalid(f"the action {rule.action.value!r} takes no {name!r}", name)
        _check_part(field, policed, name, part)
    if rule.action is _SET and rule.value is None:
        raise PolicyInvalid(f"to set {field!r} a 'value' is needed", "value")
    if rule.action is _CLAMP:
        _check_clamp(field, policed, parts)


def stored_policy(document: Mapping[str, object]) -> tuple[OptionPolicy, tuple[str, ...]]:
    """Read a policy as the database holds it, whoever wrote it there.

    Returns
    -------
    tuple
        The policy, and the names that could not be understood. A known field among them is refused to
        clients until somebody repairs its rule: a slip of the pen must not open what it meant to close.
    """
    policy: OptionPolicy = {}
    damaged = []
    for field, rule in document.items():
        try:
            policy[field] = checked_rule(field, rule)
        except PolicyInvalid:
            damaged.append(field)
            if field in FIELDS:
                policy[field] = OptionRule(_REJECT)
    return policy, tuple(damaged)


def duration_ns(value: object) -> int:
    """Return a rule's duration, in nanoseconds.

    Raises
    ------
    PolicyInvalid
        It is none.
    """
    try:
        parsed = keep_alive_ns(value)
    except BadRequest:
        parsed = None
    if parsed is None:
        raise PolicyInvalid(f"{value!r} is no duration: write seconds, or a number with a unit such as '5m'")
    return parsed


def _check_part(field: str, policed: PolicyField, name: str, part: object) -> None:
    wanted = ""
    if policed.kind in {Kind.COUNT, Kind.OUTPUT_CAP}:
        whole = part if isinstance(part, int) and not isinstance(part, bool) else -1
        if not policed.lowest <= whole <= policed.highest:
            wanted = f"a whole number from {policed.lowest} to {policed.highest}"
    elif policed.kind is Kind.DURATION:
        if _duration_of(name, part) <= 0 and name != "value":
            wanted = "a duration above zero"
    elif policed.kind is Kind.FLAG and not isinstance(part, bool):
        wanted = "true or false"
    elif policed.kind is Kind.TEXT and not (isinstance(part, str) and part and "\0" not in part):
        wanted = "a text without NUL"
    elif policed.kind is Kind.EFFORT and not (isinstance(part, bool) or part in THINK_LEVELS):
        wanted = f"true, false or one of {', '.join(THINK_LEVELS)}"
    if wanted:
        raise PolicyInvalid(f"the {name!r} of {field!r} must be {wanted}", name)


def _duration_of(name: str, part: object) -> int:
    try:
        return duration_ns(part)
    except PolicyInvalid as wrong:
        raise PolicyInvalid(str(wrong), name) from None


def _check_clamp(field: str, policed: PolicyField, parts: dict[str, bool | int | float | str]) -> None:
    if policed.kind is Kind.DURATION and not {"min", "max"} <= parts.keys():
        raise PolicyInvalid(
            f"to clamp {field!r} both 'min' and 'max' are needed: without one a client could unload the model,"
            " without the other pin it"
        )
    if policed.kind is Kind.OUTPUT_CAP and "min" in parts:
        raise PolicyInvalid(
            f"{field!r} takes no 'min': nobody is given more output than was asked for", "min"
        )
    if not parts:
        raise PolicyInvalid(f"to clamp {field!r} a 'min', a 'max' or a 'value' is needed")
    amounts = {
        name: duration_ns(part) if policed.kind is Kind.DURATION else part for name, part in parts.items()
    }
    ordered = [amounts[name] for name in ("min", "value", "max") if name in amounts]
    if ordered != sorted(ordered):
        raise PolicyInvalid(f"of {field!r}, 'min' must not exceed 'max', and 'value' must lie between them")
