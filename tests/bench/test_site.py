"""The benchmarks of several app processes run whole, if only for moments, so that they cannot rot."""

import asyncio
from collections.abc import Iterator

import pytest

from bench import race, revocation
from bench.revocation_rig import Rig, Rounds, Way
from bench.site import Site, running_site
from domain.limits import LimitKind


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    # A machine with more to do than it can is no outage of Redis.
    with running_site({"GATEWAY_REDIS_TIMEOUT_MS": "2000"}, processes=2) as running:
        yield running


def test_every_race_is_run_and_none_lets_in_more_than_there_is_room_for(site: Site) -> None:
    outcomes = asyncio.run(race.measure(site, rounds=1, callers=(20,)))

    assert [outcome.race for outcome in outcomes] == list(race.RACES)
    assert {each.kind for each in race.RACES} == set(LimitKind)
    assert [outcome.statuses.total() for outcome in outcomes] == [20] * len(race.RACES)
    assert [outcome.overshoot for outcome in outcomes] == [0] * len(race.RACES)


def test_every_way_to_revoke_has_its_figures_and_the_load_beside_them_is_served(site: Site) -> None:
    rig = Rig(site)
    rounds = asyncio.run(revocation.measure(rig, number=1, outages=1))

    assert [each.way for each in rounds] == list(Way)
    assert [
        (each.way, name)
        for each in rounds
        for name in Rounds.WORDS
        if len(each.times[name]) != (0 if name == "floor" and each.way.is_outage else 1)
    ] == []
    assert len(revocation.as_table(rounds)) == len(revocation.as_markdown(rounds)) - 1
    assert (rig.load > 0, rig.load_failed) == (True, 0)
