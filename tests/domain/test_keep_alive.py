import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import BadRequest
from domain.keep_alive import keep_alive_ns
from tests.support.counts import count

pytestmark = pytest.mark.parser

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        (0, 0),
        (0.0, 0),
        (300, 300 * SECOND),
        (1.5, 1_500_000_000),
        (1e300, (2**63 - 1) * SECOND),
        (-1, -1),
        (-0.5, -1),
        ("5m", 300 * SECOND),
        ("24h", 86_400 * SECOND),
        ("1h30m", 5_400 * SECOND),
        ("1.5s", 1_500_000_000),
        (".5s", 500_000_000),
        ("2.s", 2 * SECOND),
        ("10ms", 10_000_000),
        ("3us", 3_000),
        ("3\u00b5s", 3_000),
        ("3\u03bcs", 3_000),
        ("7ns", 7),
        ("0", 0),
        ("-0", 0),
        ("0s", 0),
        ("-1m", -60 * SECOND),
        ("+1m", 60 * SECOND),
        ("1.25s", 1_250_000_000),
        ("1.9ns", 1),
        ("9223372036854775807ns", 2**63 - 1),
        ("0" * 126 + "1s", SECOND),
    ],
)
def test_a_duration_is_read_as_go_reads_it(value: object, nanoseconds: int) -> None:
    assert keep_alive_ns(value) == nanoseconds


def test_an_absent_duration_says_nothing() -> None:
    assert keep_alive_ns(None) is None


@pytest.mark.parametrize(
    "value",
    [
        "300",
        True,
        False,
        "",
        "-",
        "m",
        ".s",
        "5 m",
        "5m ",
        "5d",
        "1e3s",
        "5M",
        "\u0665m",
        "9999999999999h",
        "9223372036854775808ns",
        "0" * 127 + "1s",
        [],
        {},
    ],
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(BadRequest) as refusal:
        keep_alive_ns(value)

    assert refusal.value.message == (
        "'keep_alive' must be a number of seconds or a duration with a unit, such as \"5m\""
    )


@given(
    st.text(st.sampled_from("0123456789.+-nu\u00b5msh \u0665"), max_size=12)
    | st.text(max_size=12)
    | st.floats(allow_nan=False)
    | st.integers()
)
@settings(max_examples=count(500, 50_000), deadline=None)
def test_anything_is_a_duration_that_go_can_hold_or_refused(value: object) -> None:
    try:
        nanoseconds = keep_alive_ns(value)
    except BadRequest:
        return
    assert nanoseconds is not None
    assert -(2**63) <= nanoseconds <= (2**63 - 1) * SECOND
