"""Who shares a limit: neither an outage nor a forgetful Redis makes a process believe it is alone."""

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from app.gateway.live_processes import GONE_AFTER_S, LiveProcesses
from domain.shares import Shares
from tests.support.clock import Clock


class World:
    """What Redis holds, and the processes as one of them sees them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.redis: set[str] | None = {"a", "b", "c"}
        self.processes = LiveProcesses("b", seen=self._seen, now=self.clock)

    async def _seen(self) -> set[str]:
        if self.redis is None:
            raise RedisConnectionError
        return self.redis

    async def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.at += 1
            if self.redis is None:
                with pytest.raises(RedisConnectionError):
                    await self.processes.look()
            else:
                await self.processes.look()


@pytest.fixture
async def world() -> World:
    world = World()
    await world.processes.look()
    return world


async def test_a_process_knows_its_place_among_those_that_report(world: World) -> None:
    assert world.processes.shares == Shares(processes=3, rank=1)


async def test_before_its_first_look_a_process_knows_nobody() -> None:
    assert not World().processes.are_known


async def test_an_outage_changes_nothing_however_long(world: World) -> None:
    world.redis = None
    await world.pass_time(600)
    world.redis = {"b"}
    await world.pass_time(1)

    assert world.processes.shares.processes == 3


async def test_a_redis_that_forgot_is_not_believed_before_others_could_report_again(world: World) -> None:
    world.redis = set()
    await world.pass_time(int(GONE_AFTER_S))

    assert world.processes.names == {"a", "b", "c"}


async def test_who_is_not_seen_for_long_is_gone(world: World) -> None:
    world.redis = {"b", "c"}
    await world.pass_time(int(GONE_AFTER_S) + 1)

    assert world.processes.names == {"b", "c"}


async def test_a_process_that_joins_makes_the_shares_smaller(world: World) -> None:
    world.redis = {"a", "b", "c", "d"}
    await world.pass_time(1)

    assert [world.processes.share(limit) for limit in (8, 5, 1)] == [2, 1, 0]
