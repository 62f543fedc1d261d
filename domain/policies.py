"""Option policies: what becomes of the fields by which one caller could change a model that others share.

Rules are set at four levels: a tenant, one of its grants, a key, one of the key's grants. Per field the most
specific level that says something wins; below them all stand the defaults of `domain.option_rules`. What wins
is worked out once per principal and model; a request without policed fields then costs a look-up.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from domain.errors import BadRequest
from domain.keep_alive import keep_alive_ns
from domain.model_names import CanonicalName, RightsMatcher
from domain.option_rules import (
    DEFAULTS,
    FIELDS,
    MAX_COUNT,
    MAX_OUTPUT_TOKENS,
    OUTPUT_CAP_FIELD,
    Kind,
    PolicyField,
    duration_ns,
)
from domain.requests import Asked, ParsedRequest, Policed
from domain.routes import POLICED_OPTIONS
from domain.values import ApiFamily, OptionPolicies, OptionPolicy, OptionRule, PolicyAction, Rights

MAX_COMPILED_MODELS: Final = 1_000
"""Models of one principal whose policy is kept ready."""


class Policy:
    """The rules in force for one principal and one model.

    Parameters
    ----------
    rules
        What the levels say, the most specific one for each field.
    default_output_cap
        Output tokens where neither client nor rules name a number.
    """

    __slots__ = (
        "_cap_is_ours",
        "_cap_is_refused",
        "_default_cap",
        "_imposed",
        "_max_cap",
        "_rules",
        "forwards_unload",
    )

    def __init__(self, rules: Mapping[str, OptionRule], *, default_output_cap: int) -> None:
        self._rules = {**DEFAULTS, **rules}
        self._imposed: dict[str, object] = {
            field: rule.value
            for field, rule in self._rules.items()
            if rule.value is not None and field != OUTPUT_CAP_FIELD
        }
        output = self._rules[OUTPUT_CAP_FIELD]
        self._cap_is_ours = output.action in {PolicyAction.STRIP, PolicyAction.SET}
        self._cap_is_refused = output.action is PolicyAction.REJECT
        self._max_cap = min(_count(output.maximum, MAX_OUTPUT_TOKENS), MAX_OUTPUT_TOKENS)
        self._default_cap = min(_count(output.value, default_output_cap), self._max_cap)
        self.forwards_unload: Final = self._rules["keep_alive"].action is PolicyAction.ALLOW

    def apply(self, request: ParsedRequest) -> Policed:
        """Decide on every policed field of a request.

        Raises
        ------
        BadRequest
            It names a field that is refused, or gives a clamped one a value of the wrong type.
        """
        cap = None if request.spec.output_cap_field is None else self._output_cap(request)
        if not request.asked and not self._imposed:
            return Policed(cap)
        return self._police(request, cap)

    def _output_cap(self, request: ParsedRequest) -> int:
        named = request.output_cap
        if named is None or self._cap_is_ours:
            return self._default_cap
        if self._cap_is_refused:
            if request.spec.family is ApiFamily.ANTHROPIC:  # which has no request without a number
                return min(named, self._default_cap)
            raise _refusal(request.spec.output_cap_field or OUTPUT_CAP_FIELD)
        return min(named, self._max_cap)

    def _police(self, request: ParsedRequest, cap: int | None) -> Policed:
        spec = request.spec
        fields: dict[str, object] = {}
        options: dict[str, object] = {}
        for name, asked in request.asked.items():
            sent = self._answer(spec.policed.get(name, name), name, asked)
            if sent is not None:
                (options if name in POLICED_OPTIONS else fields)[name] = sent
        stripped = len(request.asked) - len(fields) - len(options)
        for field, own in self._imposed.items():
            place = spec.imposed_as.get(field)
            if place is None or place in fields or place in options:
                continue
            if place != field:
                fields.update(_effort(spec.family, place, own))
            else:
                (options if place in POLICED_OPTIONS else fields)[place] = own
        return Policed(cap, fields, options, stripped)

    def _answer(self, field: str, name: str, asked: Asked) -> object:
        """Return what is sent for a field the client named, None for nothing."""
        rule = self._rules[field]
        if rule.action is PolicyAction.ALLOW:
            return asked.raw
        if rule.action is PolicyAction.REJECT:
            raise _refusal(name)
        if rule.action is PolicyAction.CLAMP:
            policed = FIELDS[field]
            if policed.kind is Kind.DURATION:
                return _clamped_duration(asked, rule)
            return _clamped_count(name, asked, rule, policed)
        return None


class ModelPolicies:
    """The policies of one principal, worked out for each model when it is first asked for."""

    __slots__ = ("_by_model", "_default_output_cap", "_levels")

    def __init__(self, policies: OptionPolicies, *, default_output_cap: int) -> None:
        self._default_output_cap = default_output_cap
        self._levels: tuple[tuple[RightsMatcher, OptionPolicy], ...] = (
            (_EVERY_MODEL, policies.tenant),
            *_by_specificity(policies.tenant_grants),
            (_EVERY_MODEL, policies.key),
            *_by_specificity(policies.key_grants),
        )
        self._by_model: dict[str, Policy] = {}

    def of(self, name: CanonicalName) -> Policy:
        """Return the rules for one model."""
        policy = self._by_model.get(name.display)
        if policy is None:
            if len(self._by_model) >= MAX_COMPILED_MODELS:
                self._by_model.clear()
            rules: OptionPolicy = {}
            for matcher, level in self._levels:
                if level and matcher.permits(name):
                    rules.update(level)
            policy = self._by_model[name.display] = Policy(rules, default_output_cap=self._default_output_cap)
        return policy


_EVERY_MODEL: Final = RightsMatcher(Rights(allow_all_models=True))


def _by_specificity(grants: Mapping[str, OptionPolicy]) -> list[tuple[RightsMatcher, OptionPolicy]]:
    """Order one holder's grants, the most specific last: names after globs, more letters after fewer."""

    def rank(pattern: str) -> tuple[bool, int, str]:
        wild = pattern.count("*") + pattern.count("?")
        return not wild, len(pattern) - wild, pattern

    return [
        (RightsMatcher(Rights(patterns=(pattern,))), grants[pattern]) for pattern in sorted(grants, key=rank)
    ]


def _refusal(name: str) -> BadRequest:
    return BadRequest(f"'{name}' may not be set here; leave it out")


def _count(part: object, otherwise: int) -> int:
    return part if isinstance(part, int) else otherwise


def _clamped_count(name: str, asked: Asked, rule: OptionRule, policed: PolicyField) -> int | None:
    if isinstance(asked.value, bool) or not isinstance(asked.value, int | float):
        raise BadRequest(f"the option '{name}' must be a number")
    number = int(asked.value)
    if number < policed.lowest:
        return None  # "as you like", which is what a clamp is there to prevent
    return min(max(number, _count(rule.minimum, policed.lowest)), _count(rule.maximum, MAX_COUNT))


def _clamped_duration(asked: Asked, rule: OptionRule) -> msgspec.Raw | int | float | str | None:
    named = keep_alive_ns(asked.value)
    if named is None:
        return None
    if named < 0 or named > duration_ns(rule.maximum):
        return rule.maximum
    return rule.minimum if named < duration_ns(rule.minimum) else asked.raw


def _effort(family: ApiFamily, place: str, value: object) -> dict[str, object]:
    """Return the fields that say a `think` value in another API's words; none if leaving it out says the same."""
    if value is True:
        return {}
    if family is ApiFamily.ANTHROPIC:
        return {"thinking": {"type": "disabled"}} if value is False else {"output_config": {"effort": value}}
    # Ollama's OpenAI routes knew three levels before they knew "max".
    effort = "none" if value is False else "high" if value == "max" else str(value)
    return {place: {"effort": effort} if family is ApiFamily.RESPONSES else effort}
