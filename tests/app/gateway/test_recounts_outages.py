"""Without Redis every process grants its share of what was left, and tells what it granted afterwards."""

import pytest

from domain.errors import LimitExceeded, Unavailable
from domain.values import Principal, RequestId
from tests.support.limiters import A_DAY, EACH, Limiters, Process, exact, handed_over, limited, record_of
from tests.support.stoppable import StoppableValkey


async def let_in(process: Process, who: Principal, tokens: int = 0, *, tries: int = 20) -> list[RequestId]:
    """Ask so often and return what was let in."""
    found = []
    for _ in range(tries):
        try:
            found.append(await process.take(who, tokens))
        except (LimitExceeded, Unavailable):
            continue
    return found


@pytest.mark.parametrize(
    ("limits", "tokens"),
    [
        ({"requests_per_minute": 7}, 0),
        ({"concurrency": 7}, 0),
        ({"tokens_per_day": 7}, 1),
        ({"tokens_per_month": 7}, 1),
    ],
    ids=["requests", "places", "day", "month"],
)
async def test_the_shares_of_all_processes_are_the_limit(
    outage: Limiters, own_valkey: StoppableValkey, limits: dict[str, int], tokens: int
) -> None:
    processes = [await outage.process() for _ in range(3)]
    who = limited(**limits)
    with own_valkey.gone():
        found = [await let_in(process, who, tokens) for process in processes]

    assert sorted(map(len, found)) == [2, 2, 3]


async def test_a_share_is_of_what_was_left(outage: Limiters, own_valkey: StoppableValkey) -> None:
    one, other = await outage.process(), await outage.process()
    who = limited(tokens_per_day=1000)
    await outage.rows.insert_batch([record_of(who) for _ in range(10)])
    await one.take(who, 100)
    await other.take(who, 0)
    with own_valkey.gone():
        # The ledger has spent 300; half of the rest is 350, of which one has reserved 100.
        assert len(await let_in(one, who, 50)) == 5
        # Redis told the other one of these 100 as well.
        assert len(await let_in(other, who, 50)) == 6


async def test_a_rate_goes_on_where_it_was(outage: Limiters, own_valkey: StoppableValkey) -> None:
    one = await outage.process()
    who = limited(requests_per_minute=4)
    for _ in range(3):
        await one.take(who)
    with own_valkey.gone():
        assert len(await let_in(one, who)) == 1


async def test_a_quota_that_is_spent_says_so_also_without_redis(
    outage: Limiters, own_valkey: StoppableValkey
) -> None:
    one = await outage.process()
    who = limited(tokens_per_day=100)
    await outage.rows.insert_batch([record_of(who) for _ in range(4)])
    with own_valkey.gone(), pytest.raises(LimitExceeded):
        await one.take(who, 50)


async def test_without_redis_and_the_ledger_no_quota_is_spent(
    outage: Limiters, own_valkey: StoppableValkey
) -> None:
    one = await outage.process()
    quota, rate = limited(tokens_per_day=100), limited(requests_per_minute=100)
    outage.broken = True
    with own_valkey.gone():
        with pytest.raises(Unavailable):
            await one.take(quota, 1)
        await one.take(rate, 1)


async def test_what_was_let_in_without_redis_is_counted_when_it_is_back(
    outage: Limiters, own_valkey: StoppableValkey
) -> None:
    one, other = await outage.process(), await outage.process()
    who = limited()
    assert who.tenant_id is not None
    await one.take(who)
    with own_valkey.gone():
        await one.take(who, 100)
        ended = await other.take(who, 200)
        other.unconfirmed.append(record_of(who, ended))
        other.limiter.settle(who.tenant_id, ended, EACH)

    assert await exact(one, who) == A_DAY - 100 - EACH
    await handed_over(one, other)
    assert await exact(other, who) == A_DAY - 100 - EACH


async def test_a_server_that_only_hung_is_told_as_well(outage: Limiters, own_valkey: StoppableValkey) -> None:
    one, other = await outage.process(), await outage.process()
    who = limited()
    await one.take(who, 10)
    with own_valkey.silent():
        await one.take(who, 100)
        await other.take(who, 200)

    assert await exact(one, who) == A_DAY - 310
