"""What a minute's limit decides in Redis is what exact arithmetic decides, whatever is asked in which order.

Redis's clock cannot be set. It is read before and after each step, and the model follows both bounds.
"""

from fractions import Fraction
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from domain.limits import Admitted, Limits
from tests.support.counts import count
from tests.support.limits import Customer, begin

MINUTE_US: Final = 60_000_000


class Meter:
    """A bucket that drains a whole limit in a minute; how full it is lies between two bounds."""

    def __init__(self, limit: int) -> None:
        self._drain = Fraction(limit, MINUTE_US)
        self._limit = limit
        self.least = Fraction(0)
        self.most = Fraction(0)
        self._earliest = self._latest = 0

    def drain(self, earliest: int, latest: int) -> None:
        """Go on to a time between two."""
        self.least = max(Fraction(0), self.least - self._drain * (latest - self._earliest))
        self.most = max(Fraction(0), self.most - self._drain * max(0, earliest - self._latest))
        self._earliest, self._latest = earliest, latest

    def add(self, tokens: int) -> None:
        """Fill in, or take out down to nothing."""
        self.least, self.most = max(Fraction(0), self.least + tokens), max(Fraction(0), self.most + tokens)

    def may_admit(self, tokens: int) -> bool:
        """Tell whether there is room at the least level."""
        return self.least + tokens <= self._limit

    def must_admit(self, tokens: int) -> bool:
        """Tell whether there is room at the most level."""
        return self.most + tokens <= self._limit

    def allows(self, remaining: int) -> bool:
        """Tell whether so much can remain."""
        return self._whole(self.most) <= remaining <= self._whole(self.least)

    def _whole(self, level: Fraction) -> int:
        return max(0, (self._limit - level).__floor__())


STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 120)),
        st.tuples(st.just("settle"), st.integers(0, 150)),
    ),
    min_size=1,
    max_size=40,
)


async def now_us(redis: MultiplexedRedis) -> int:
    time = await redis.call("TIME")
    assert isinstance(time, list)
    return int(time[0]) * 1_000_000 + int(time[1])


@settings(
    max_examples=count(60, 2000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(limit=st.sampled_from([1, 7, 100, 6000, 100_000, 7_000_001, 149_999_993]), steps=STEPS)
async def test_redis_and_exact_arithmetic_agree(
    redis_url: str, limit: int, steps: list[tuple[str, int]]
) -> None:
    redis = MultiplexedRedis(SecretStr(redis_url), timeout_s=5)
    try:
        await follow(redis, limit, steps)
    finally:
        await redis.aclose()


async def follow(redis: MultiplexedRedis, limit: int, steps: list[tuple[str, int]]) -> None:
    """Do the same in Redis and in the model. Percentages of the limit make the amounts."""
    store = LimitStore(redis, process_id="model")
    one = Customer(tenant=Limits(tokens_per_minute=limit))
    await begin(store, one.tenant_id, ())
    meter = Meter(limit)
    held = []
    for act, percent in steps:
        tokens = -(-percent * limit // 100)
        earliest = await now_us(redis)
        if act == "take":
            ask = one.ask(tokens)
            answer = await store.take(ask)
            meter.drain(earliest, await now_us(redis))
            if isinstance(answer, Admitted):
                assert meter.may_admit(tokens)
                meter.add(tokens)
                held.append(ask)
            else:
                assert not meter.must_admit(tokens)
            assert meter.allows(answer.states[0].remaining)  # type: ignore[union-attr] # never unknown
        elif held:
            ask = held.pop(0)
            await store.settle(one.tenant_id, ask.request_id, tokens)
            meter.drain(earliest, await now_us(redis))
            meter.add(tokens - ask.tokens)
