"""Which rules a policy may hold."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.option_rules import (
    DEFAULTS,
    FIELDS,
    MAX_OUTPUT_TOKENS,
    PolicyInvalid,
    checked_rule,
    stored_policy,
)
from domain.routes import OPTION_ACTIONS, FieldAction, inference_routes
from domain.values import OptionRule, PolicyAction

pytestmark = pytest.mark.parser

REJECT = OptionRule(PolicyAction.REJECT)


def test_every_policed_field_of_a_request_has_a_rule_and_no_other() -> None:
    words = {word for spec in inference_routes().values() for word in spec.policed.values()}
    options = {name for name, action in OPTION_ACTIONS.items() if action is FieldAction.POLICE}

    assert FIELDS.keys() == DEFAULTS.keys() == words | options | {"num_predict"}


@pytest.mark.parametrize(
    ("field", "rule"),
    [
        ("num_ctx", {"action": "clamp", "min": 2048, "max": 8192, "value": 4096}),
        ("num_ctx", {"action": "clamp", "max": 8192}),
        ("num_ctx", {"action": "clamp", "value": 8192}),
        ("num_ctx", {"action": "set", "value": 8192}),
        ("num_gpu", {"action": "clamp", "min": 0, "max": 0}),
        ("num_predict", {"action": "clamp", "max": MAX_OUTPUT_TOKENS, "value": 1}),
        ("num_predict", {"action": "set", "value": 256}),
        ("keep_alive", {"action": "clamp", "min": "5m", "max": 1800}),
        ("keep_alive", {"action": "clamp", "min": "1ns", "max": "2ns"}),
        ("keep_alive", {"action": "clamp", "min": 0.5, "value": "1s", "max": "1h30m"}),
        ("keep_alive", {"action": "set", "value": -1}),
        ("use_mmap", {"action": "set", "value": False}),
        ("raw", {"action": "reject"}),
        ("template", {"action": "set", "value": "{{ .Prompt }}"}),
        ("system", {"action": "strip"}),
        ("context", {"action": "reject"}),
        ("think", {"action": "set", "value": False}),
        ("think", {"action": "set", "value": "low"}),
        *((field, {"action": action}) for field in FIELDS for action in ("allow", "strip", "reject")),
    ],
)
def test_a_sensible_rule_is_read(field: str, rule: dict[str, Any]) -> None:
    read = checked_rule(field, rule)

    assert {"action": read.action, "min": read.minimum, "max": read.maximum, "value": read.value} == {
        "min": None,
        "max": None,
        "value": None,
        **rule,
    }


@pytest.mark.parametrize(
    ("field", "rule", "said"),
    [
        (
            "temperature",
            {"action": "strip"},
            "no policy can be set for 'temperature'; choose one of context, draft",
        ),
        ("num_ctx", {}, "action"),
        ("num_ctx", [], "cannot be read"),
        ("num_ctx", {"action": "pin"}, "cannot be read"),
        ("num_ctx", {"action": "strip", "mx": 1}, "unknown field `mx`"),
        ("num_ctx", {"action": "strip", "max": 1}, "takes no 'max'"),
        ("num_ctx", {"action": "set", "value": 1, "min": 1}, "takes no 'min'"),
        ("num_ctx", {"action": "set"}, "'value' is needed"),
        ("num_ctx", {"action": "clamp"}, "is needed"),
        ("num_ctx", {"action": "clamp", "min": 2, "max": 1}, "^of 'num_ctx', 'min' must not exceed"),
        ("num_ctx", {"action": "clamp", "min": 2, "value": 1}, "lie between"),
        ("num_ctx", {"action": "clamp", "value": 2, "max": 1}, "lie between"),
        (
            "num_ctx",
            {"action": "clamp", "max": 0},
            "^the 'max' of 'num_ctx' must be a whole number from 1 to",
        ),
        ("num_ctx", {"action": "clamp", "max": "8192"}, "whole number"),
        ("num_ctx", {"action": "clamp", "max": 1.5}, "whole number"),
        ("num_ctx", {"action": "clamp", "max": 2**31}, "whole number"),
        ("num_ctx", {"action": "set", "value": True}, "whole number"),
        ("num_gpu", {"action": "set", "value": -1}, "whole number from 0"),
        ("num_predict", {"action": "clamp", "max": 0}, "whole number from 1"),
        ("num_predict", {"action": "clamp", "max": MAX_OUTPUT_TOKENS + 1}, "whole number"),
        ("num_predict", {"action": "clamp", "min": 1, "max": 2}, "takes no 'min'"),
        (
            "keep_alive",
            {"action": "clamp", "max": "1h"},
            "needed: without one .* model, without the other pin it$",
        ),
        ("keep_alive", {"action": "clamp", "min": "1h"}, "both 'min' and 'max'"),
        ("keep_alive", {"action": "clamp", "min": 0, "max": "1h"}, "must be a duration above zero$"),
        ("keep_alive", {"action": "clamp", "min": 1, "max": -1}, "above zero"),
        ("keep_alive", {"action": "clamp", "min": "2m", "max": "90s"}, "must not exceed"),
        ("keep_alive", {"action": "set", "value": "300"}, "no duration"),
        ("keep_alive", {"action": "set", "value": True}, "no duration"),
        (
            "use_mmap",
            {"action": "clamp", "max": 1},
            "takes no 'clamp'; choose one of allow, strip, reject, set$",
        ),
        ("use_mmap", {"action": "set", "value": 1}, "must be true or false$"),
        ("template", {"action": "set", "value": ""}, "must be a text without NUL$"),
        ("system", {"action": "set", "value": 1}, "a text"),
        (
            "think",
            {"action": "set", "value": "hard"},
            "must be true, false or one of low, medium, high, max$",
        ),
        ("system", {"action": "set", "value": "a\0b"}, "a text without NUL"),
        ("context", {"action": "set", "value": "x"}, "takes no 'set'"),
    ],
)
def test_a_senseless_rule_is_refused_in_a_sentence(field: str, rule: object, said: str) -> None:
    with pytest.raises(PolicyInvalid, match=said):
        checked_rule(field, rule)


@pytest.mark.parametrize(
    ("field", "rule", "part"),
    [
        ("num_ctx", {"action": "clamp", "min": 1, "max": 0}, "max"),
        ("keep_alive", {"action": "set", "value": "300"}, "value"),
        ("keep_alive", {"action": "clamp", "min": 0, "max": "1h"}, "min"),
        ("num_ctx", {"action": "strip", "max": 1}, "max"),
        ("num_ctx", {"action": "clamp"}, None),
    ],
)
def test_the_part_at_fault_is_named(field: str, rule: object, part: str | None) -> None:
    with pytest.raises(PolicyInvalid) as refusal:
        checked_rule(field, rule)

    assert refusal.value.part == part


def test_a_damaged_stored_rule_refuses_its_field_and_leaves_the_others() -> None:
    policy, damaged = stored_policy(
        {
            "num_ctx": {"action": "clamp", "max": "lots"},
            "think": {"action": "strip"},
            "novelty": {},
            "raw": None,
        }
    )

    assert policy == {"num_ctx": REJECT, "think": OptionRule(PolicyAction.STRIP), "raw": REJECT}
    assert damaged == ("num_ctx", "novelty", "raw")


any_part = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(("5m", "0", "-1s", "low", "", "x"))
)


@given(
    st.sampled_from(sorted(FIELDS)),
    st.sampled_from([action.value for action in PolicyAction]),
    st.dictionaries(st.sampled_from(("min", "max", "value")), any_part),
)
def test_a_rule_is_read_or_refused_and_nothing_else(
    field: str, action: str, parts: dict[str, object]
) -> None:
    try:
        rule = checked_rule(field, {"action": action, **parts})
    except PolicyInvalid:
        return
    assert rule.action == action
