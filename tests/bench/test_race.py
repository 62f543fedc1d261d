"""The race as a benchmark runs whole, if only for moments, so that it cannot rot."""

import asyncio
from collections import Counter
from pathlib import Path

from bench.crowd import LOST, Answer
from bench.race import RACES, Outcome, measure, table
from bench.site import gateway
from domain.limits import LimitKind


def test_every_race_is_run_and_none_lets_in_more_than_there_is_room_for(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    # A machine with more to do than it can is no outage of Redis.
    with gateway(tmp_path, {"GATEWAY_REDIS_TIMEOUT_MS": "5000"}) as (ports, environ):
        outcomes = asyncio.run(measure(ports, environ, rounds=1, callers=(20,)))

    assert [outcome.race for outcome in outcomes] == list(RACES)
    assert {race.kind for race in RACES} == set(LimitKind)
    assert [outcome.statuses.total() for outcome in outcomes] == [20] * len(RACES)
    assert [outcome.overshoot for outcome in outcomes] == [0] * len(RACES)


def test_who_was_let_in_beyond_the_room_is_an_overshoot() -> None:
    outcome = Outcome(RACES[0], 5)
    outcome.add([Answer(1, status, 0.5) for status in (200, 200, 200, 429, LOST)], took_s=2.0)

    assert (outcome.overshoot, outcome.statuses) == (2, Counter({200: 3, 429: 1, LOST: 1}))
    assert table([outcome]).splitlines()[-1] == (
        "| last request of the minute | 5 | 1 | 1 | 3 | 2 | 1 | 1 | 2 | 500 | 500 | 500 | 500 |"
    )
