"""Putting declarations and the ledger together: everything once, in the period of its admission."""

from uuid import uuid4

import pytest

from domain.limits import Ask, Held, LimitKind, Limits, LimitState, PeriodBounds
from domain.recounts import Charge, Declaration, Level, declared, level_of, recount
from domain.values import KeyId, RequestId, TenantId

TENANT, ONE, TWO = TenantId(uuid4()), KeyId(uuid4()), KeyId(uuid4())
DAY = PeriodBounds(100, 200, 300, 400)
MONTH = PeriodBounds(0, 50, 1000, 2000)
EMPTY = {100: {}, 200: {}, 300: {}, 0: {}, 50: {}, 1000: {}}  # type: dict[int, dict[KeyId, int]]


def charge(tokens: int, at: int, key_id: KeyId = ONE) -> Charge:
    return Charge(RequestId(uuid4()), key_id, tokens, at)


def held(tokens: int = 5, at: int = 250) -> Held:
    return Held(Ask(RequestId(uuid4()), TENANT, ONE, Limits(), Limits(), tokens, DAY, MONTH), at)


def of(
    *declarations: Declaration, ledger: dict[int, dict[KeyId, int]] | None = None
) -> dict[tuple[LimitKind, int, KeyId | None], int]:
    found = recount(
        dict(zip("abc", declarations, strict=False)), ledger=ledger or EMPTY, day=DAY, month=MONTH
    )
    return {(one.kind, one.start, one.key_id): one.tokens for one in found.sums if one.tokens}


def test_the_ledger_is_divided_into_the_periods() -> None:
    ledger = EMPTY | {0: {ONE: 90}, 50: {ONE: 70}, 100: {ONE: 60, TWO: 1}, 200: {ONE: 20}}

    assert of(ledger=ledger) == {
        (LimitKind.TOKENS_PER_DAY, 100, ONE): 40,
        (LimitKind.TOKENS_PER_DAY, 100, TWO): 1,
        (LimitKind.TOKENS_PER_DAY, 100, None): 41,
        (LimitKind.TOKENS_PER_DAY, 200, ONE): 20,
        (LimitKind.TOKENS_PER_DAY, 200, None): 20,
        (LimitKind.TOKENS_PER_MONTH, 0, ONE): 20,
        (LimitKind.TOKENS_PER_MONTH, 0, None): 20,
        (LimitKind.TOKENS_PER_MONTH, 50, ONE): 70,
        (LimitKind.TOKENS_PER_MONTH, 50, None): 70,
    }


def test_what_ended_counts_where_it_was_admitted() -> None:
    found = of(Declaration(ended=(charge(1, 199), charge(2, 200, TWO))))

    assert found == {
        (LimitKind.TOKENS_PER_DAY, 100, ONE): 1,
        (LimitKind.TOKENS_PER_DAY, 100, None): 1,
        (LimitKind.TOKENS_PER_DAY, 200, TWO): 2,
        (LimitKind.TOKENS_PER_DAY, 200, None): 2,
        (LimitKind.TOKENS_PER_MONTH, 50, ONE): 1,
        (LimitKind.TOKENS_PER_MONTH, 50, TWO): 2,
        (LimitKind.TOKENS_PER_MONTH, 50, None): 3,
    }


def test_a_period_that_began_while_it_was_counted_has_its_own_sum() -> None:
    found = of(
        Declaration(ended=(charge(1, 300),)), ledger=EMPTY | {100: {ONE: 4}, 200: {ONE: 4}, 300: {ONE: 3}}
    )

    assert {start: tokens for (kind, start, key_id), tokens in found.items() if _is_day(kind, key_id)} == {
        200: 1,
        300: 4,
    }


def _is_day(kind: LimitKind, key_id: KeyId | None) -> bool:
    return kind is LimitKind.TOKENS_PER_DAY and key_id == ONE


def test_what_two_declare_counts_once() -> None:
    one = charge(7, 250)

    assert of(Declaration(ended=(one,)), Declaration(ended=(one,)))[LimitKind.TOKENS_PER_DAY, 200, None] == 7


def test_what_ended_for_one_does_not_run_for_another() -> None:
    running = held()
    ended = Charge(running.ask.request_id, ONE, 3, 250)
    found = recount(
        {"a": Declaration(running=(running,)), "b": Declaration(ended=(ended,))},
        ledger=EMPTY,
        day=DAY,
        month=MONTH,
    )

    assert found.running == ()
    assert found.ended == {running.ask.request_id}


def test_all_that_is_declared_is_known_by_its_id() -> None:
    running, ended = held(), charge(1, 250)

    assert declared([Declaration(running=(running,)), Declaration(ended=(ended,))]) == {
        running.ask.request_id,
        ended.request_id,
    }


def test_of_each_rate_the_highest_level_is_believed() -> None:
    low, high = (Level(LimitKind.REQUESTS_PER_MINUTE, None, 60, used) for used in (3.0, 9.0))
    found = recount(
        {"a": Declaration(levels=(low,)), "b": Declaration(levels=(high,))},
        ledger=EMPTY,
        day=DAY,
        month=MONTH,
    )

    assert found.levels == (high,)


def test_a_rate_drains_while_nobody_looks() -> None:
    state = LimitState(LimitKind.TOKENS_PER_MINUTE, "key", 600, 300, 30.0)

    assert level_of(state, key_id=ONE, seen_s=10) == Level(LimitKind.TOKENS_PER_MINUTE, ONE, 600, 200)
    assert level_of(state, key_id=ONE, seen_s=31) is None


@pytest.mark.parametrize(("seen_s", "used"), [(0, 70), (99, 70), (100, None)])
def test_a_quota_stays_spent_until_its_period_ends(seen_s: float, used: int | None) -> None:
    state = LimitState(LimitKind.TOKENS_PER_DAY, "tenant", 100, 30, 100.0)
    found = level_of(state, key_id=ONE, seen_s=seen_s)

    assert (found and found.used) == used


def test_of_quotas_the_ledger_is_believed() -> None:
    level = Level(LimitKind.TOKENS_PER_DAY, None, 100, 70)
    found = recount({"a": Declaration(levels=(level,))}, ledger=EMPTY, day=DAY, month=MONTH)

    assert found.levels == ()


def test_what_runs_at_once_has_no_level() -> None:
    assert level_of(LimitState(LimitKind.CONCURRENCY, "key", 6, 3, 1.0), key_id=ONE, seen_s=0) is None


def test_a_moment_belongs_to_the_period_that_holds_it() -> None:
    assert [DAY.holding(at) for at in (100, 199, 200, 299, 300, 399)] == [
        (100, 200),
        (100, 200),
        (200, 300),
        (200, 300),
        (300, 400),
        (300, 400),
    ]
