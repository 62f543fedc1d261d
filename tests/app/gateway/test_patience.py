"""When Redis counts as out of reach, seen over all requests of a process."""

import pytest

from app.gateway.patience import PATIENT_FOR, Patience
from db.redis.multiplex import RedisAway, RedisRefused, RedisUnreached
from tests.support.clock import Clock

TIMEOUT_S = 0.05


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def patience(clock: Clock) -> Patience:
    return Patience(timeout_s=TIMEOUT_S, now=clock)


def test_where_nobody_listens_it_is_out_of_reach_at_once(clock: Clock, patience: Patience) -> None:
    assert patience.is_over(RedisRefused(), asked_at=clock())


@pytest.mark.parametrize("failure", [RedisAway(), RedisUnreached()])
def test_f12_silence_has_to_last_three_answers(clock: Clock, patience: Patience, failure: RedisAway) -> None:
    found = []
    for _ in range(PATIENT_FOR):
        asked_at = clock()
        clock.at += TIMEOUT_S + 0.001
        found.append(patience.is_over(failure, asked_at=asked_at))

    assert found == [False, False, True]


def test_all_requests_share_one_silence(clock: Clock, patience: Patience) -> None:
    patience.is_over(RedisAway(), asked_at=clock())
    clock.at += 1

    assert patience.is_over(RedisAway(), asked_at=clock())


def test_an_answer_ends_the_silence(clock: Clock, patience: Patience) -> None:
    patience.is_over(RedisAway(), asked_at=clock())
    clock.at += 1
    patience.answered()

    assert not patience.is_over(RedisAway(), asked_at=clock())
