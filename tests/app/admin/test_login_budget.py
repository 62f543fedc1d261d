"""The budget of wrong keys: exact over several processes, by Redis's clock, and each for itself without Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.admin.errors import TooManyLogins
from app.admin.login_budget import BUDGET, LoginBudget, holder_of
from app.gateway.client_address import ClientAddress
from db.redis.login_budget import LoginBudgetStore
from db.redis.multiplex import MultiplexedRedis
from domain.errors import Unauthenticated, Unavailable
from tests.support.clock import Clock
from tests.support.own_stores import OwnValkey

HERE = ip_address("192.0.2.1")
RIGHT, WRONG = b"r" * 16, b"w" * 16
NOWHERE = SecretStr("redis://127.0.0.1:1/0")


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[MultiplexedRedis]:
    redis = MultiplexedRedis(SecretStr(redis_url), timeout_s=2.0)
    yield redis
    await redis.aclose()


@pytest.fixture
def budget(redis: MultiplexedRedis) -> LoginBudget:
    return LoginBudget(LoginBudgetStore(redis))


@pytest.fixture
def neighbour(redis: MultiplexedRedis) -> LoginBudget:
    """Give the budget as another process has it."""
    return LoginBudget(LoginBudgetStore(redis))


@pytest.fixture
async def alone() -> AsyncIterator[tuple[LoginBudget, Clock]]:
    """Give the budget of a process that cannot reach Redis, and its clock."""
    redis, clock = MultiplexedRedis(NOWHERE, timeout_s=0.5), Clock()
    yield LoginBudget(LoginBudgetStore(redis), now=clock), clock
    await redis.aclose()


async def refused(budget: LoginBudget, proof: bytes = WRONG, address: ClientAddress | None = HERE) -> int:
    """Present a wrong key; return 0, or how long its address has to wait, in seconds."""
    try:
        async with budget.one_try(address, proof):
            raise Unauthenticated  # noqa: TRY301 - that is how a key turns out to be wrong
    except Unauthenticated:
        return 0
    except TooManyLogins as slowed:
        return slowed.retry_after_s


async def accepted(budget: LoginBudget, proof: bytes = RIGHT, address: ClientAddress | None = HERE) -> bool:
    """Present a right key; tell whether it was looked at."""
    try:
        async with budget.one_try(address, proof):
            return True
    except TooManyLogins:
        return False


async def spend(budget: LoginBudget) -> None:
    assert [await refused(budget) for _ in range(BUDGET)] == [0] * BUDGET


async def test_processes_share_a_budget(budget: LoginBudget, neighbour: LoginBudget) -> None:
    for process in (budget, neighbour, budget, neighbour, budget):
        assert await refused(process) == 0

    assert 890 <= await refused(budget) <= 900
    assert 890 <= await refused(neighbour) <= 900


async def test_tries_that_were_not_looked_at_do_not_prolong_the_wait(redis: MultiplexedRedis) -> None:
    budget = LoginBudget(LoginBudgetStore(redis), window_s=1.0)
    await spend(budget)

    async with asyncio.timeout(5):
        while await refused(budget):  # noqa: ASYNC110 - Redis's clock cannot set our events
            await asyncio.sleep(0.05)


async def test_right_keys_take_nothing_from_the_budget(budget: LoginBudget) -> None:
    for number in range(3 * BUDGET):
        assert await accepted(budget, bytes([number]) * 16)

    assert await refused(budget) == 0


async def test_a_key_that_worked_here_passes_in_every_process(
    budget: LoginBudget, neighbour: LoginBudget
) -> None:
    assert await accepted(budget)
    await spend(budget)

    assert await accepted(budget)
    assert await accepted(neighbour)
    assert not await accepted(neighbour, b"another right key")


async def test_a_key_that_worked_elsewhere_does_not_pass(budget: LoginBudget) -> None:
    assert await accepted(budget, address=ip_address("192.0.2.2"))
    await spend(budget)

    assert not await accepted(budget)


async def test_a_key_that_stops_working_is_not_believed_any_more(
    budget: LoginBudget, neighbour: LoginBudget
) -> None:
    assert await accepted(budget)
    await spend(budget)

    assert await refused(budget, RIGHT) == 0
    assert await refused(budget, RIGHT) > 0
    assert await refused(neighbour, RIGHT) > 0


async def test_undecided_tries_take_their_places_for_a_moment(
    budget: LoginBudget, neighbour: LoginBudget
) -> None:
    async with AsyncExitStack() as undecided:
        for number in range(BUDGET):
            await undecided.enter_async_context(budget.one_try(HERE, bytes([number]) * 16))
        wait = await refused(neighbour)

    assert 1 <= wait <= 10
    assert await accepted(neighbour, b"right as well...")


async def test_a_key_nobody_can_be_asked_about_costs_nothing(budget: LoginBudget) -> None:
    for number in range(3 * BUDGET):
        with pytest.raises(Unavailable):
            async with budget.one_try(HERE, bytes([number]) * 16):
                raise Unavailable("key_store_unreachable")

    assert await refused(budget) == 0


async def test_without_redis_each_process_counts_for_itself(alone: tuple[LoginBudget, Clock]) -> None:
    budget, clock = alone
    assert await accepted(budget)
    await spend(budget)

    assert 890 <= await refused(budget) <= 900
    assert await accepted(budget)
    assert not await accepted(budget, b"new from here...")
    clock.at += 901
    assert await refused(budget) == 0


async def test_what_was_counted_before_redis_went_away_still_counts(tmp_path: Path) -> None:
    valkey = OwnValkey(tmp_path)
    valkey.start()
    redis = MultiplexedRedis(SecretStr(valkey.url), timeout_s=0.5)
    try:
        budget = LoginBudget(LoginBudgetStore(redis))
        await spend(budget)
    finally:
        valkey.kill()

    assert await refused(budget) > 0
    await redis.aclose()


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
    ],
)
def test_who_shares_a_budget(one: str, other: str, *, shared: bool) -> None:
    assert (holder_of(ip_address(one)) == holder_of(ip_address(other))) is shared


def test_callers_without_an_address_share_one() -> None:
    assert holder_of(None) == "none"
