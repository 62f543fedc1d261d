"""Backends left out for a moment, and what brings them back."""

from datetime import timedelta

import pytest

from app.gateway.cooldown import COOLDOWN_S, LATE_FAILURE_WINDOW_S, Cooldown
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cooldown(clock: Clock) -> Cooldown:
    return Cooldown(clock, clock.today)


def test_nobody_cools_at_first(cooldown: Cooldown) -> None:
    assert not cooldown.cooling()


def test_a_failure_cools_for_five_seconds(cooldown: Cooldown, clock: Clock) -> None:
    cooldown.failed("a")

    assert set(cooldown.cooling()) == {"a"}
    clock.at += COOLDOWN_S - 0.001
    assert set(cooldown.cooling()) == {"a"}
    clock.at += 0.001
    assert not cooldown.cooling()
    assert COOLDOWN_S == 5


def test_another_failure_begins_the_five_seconds_anew(cooldown: Cooldown, clock: Clock) -> None:
    cooldown.failed("a")
    clock.at += 4
    cooldown.failed("a")
    clock.at += 4

    assert set(cooldown.cooling()) == {"a"}


def test_backends_cool_by_themselves(cooldown: Cooldown, clock: Clock) -> None:
    cooldown.failed("a")
    clock.at += 3
    cooldown.failed("b")
    clock.at += 2

    assert set(cooldown.cooling()) == {"b"}


def test_a_good_poll_after_the_failure_ends_it(cooldown: Cooldown, clock: Clock) -> None:
    cooldown.failed("a")
    cooldown.failed("b")
    cooldown.polled({"a": clock.today() + timedelta(milliseconds=1)})

    assert set(cooldown.cooling()) == {"b"}


def test_a_good_poll_from_before_the_failure_ends_nothing(cooldown: Cooldown, clock: Clock) -> None:
    polled_at = clock.today()
    clock.at += 0.1
    cooldown.failed("a")

    for _ in range(2):
        cooldown.polled({"a": polled_at})

    assert set(cooldown.cooling()) == {"a"}


def test_a_poll_without_a_time_ends_nothing(cooldown: Cooldown) -> None:
    cooldown.failed("a")
    cooldown.polled({"a": None, "b": None})

    assert set(cooldown.cooling()) == {"a"}


def test_a_failure_after_a_good_poll_cools_again(cooldown: Cooldown, clock: Clock) -> None:
    cooldown.failed("a")
    clock.at += 1
    cooldown.polled({"a": clock.today()})
    clock.at += 1
    cooldown.failed("a")

    cooldown.polled({"a": clock.today() - timedelta(seconds=1)})

    assert set(cooldown.cooling()) == {"a"}


def test_only_the_third_late_failure_within_ten_seconds_cools(cooldown: Cooldown, clock: Clock) -> None:
    cooldown.failed_late("a")
    clock.at += 4
    cooldown.failed_late("a")
    assert not cooldown.cooling()
    clock.at += 4
    cooldown.failed_late("a")

    assert set(cooldown.cooling()) == {"a"}


def test_late_failures_further_apart_do_not_add_up(cooldown: Cooldown, clock: Clock) -> None:
    for _ in range(10):
        cooldown.failed_late("a")
        assert not cooldown.cooling()
        clock.at += LATE_FAILURE_WINDOW_S / 2


def test_every_late_failure_from_the_third_on_counts(cooldown: Cooldown, clock: Clock) -> None:
    for _ in range(3):
        cooldown.failed_late("a")
    clock.at += COOLDOWN_S
    assert not cooldown.cooling()

    cooldown.failed_late("a")

    assert set(cooldown.cooling()) == {"a"}


def test_late_failures_of_different_backends_do_not_add_up(cooldown: Cooldown) -> None:
    for name in ("a", "b", "a", "b"):
        cooldown.failed_late(name)

    assert not cooldown.cooling()
