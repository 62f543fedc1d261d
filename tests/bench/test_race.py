"""How the race is counted."""

from collections import Counter

from bench.crowd import LOST, Answer
from bench.race import RACES, Outcome, table


def test_who_was_let_in_beyond_the_room_is_an_overshoot() -> None:
    outcome = Outcome(RACES[0], 5)
    outcome.add([Answer(1, status, 0.5) for status in (200, 200, 200, 429, LOST)], took_s=2.0)

    assert (outcome.overshoot, outcome.statuses) == (2, Counter({200: 3, 429: 1, LOST: 1}))
    assert table([outcome]).splitlines()[-1] == (
        "| last request of the minute | 5 | 1 | 1 | 3 | 2 | 1 | 1 | 2 | 500 | 500 | 500 | 500 |"
    )
