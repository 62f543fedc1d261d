"""Several processes race for the last of a limit, and none of it is given twice."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Final

import msgspec
import pytest
from pydantic import SecretStr

from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from domain.limits import Ask, Limits
from tests.support.counts import count
from tests.support.limits import Customer, admitted, begin
from tests.support.servers import RedisDatabases

PROCESSES: Final = 4
TRIES_EACH: Final = 250
ROUNDS: Final = count(10, 100)


class Racers:
    """Processes that ask the same at the same time."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        command = (sys.executable, "-m", "tests.support.racer", url, str(TRIES_EACH))
        self._processes = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(PROCESSES)
        ]
        assert self._said() == ["ready"] * PROCESSES

    def race(self, ask: Ask) -> int:
        """Return how many of a thousand were admitted."""
        line = msgspec.json.encode(ask).decode() + "\n"
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(line)
            process.stdin.flush()
        return sum(map(int, self._said()))

    def _said(self) -> list[str]:
        return [
            process.stdout.readline().strip() for process in self._processes if process.stdout is not None
        ]


@pytest.fixture(scope="module")
def racers(valkey: RedisDatabases) -> Iterator[tuple[str, Racers]]:
    with valkey.claimed() as url, ExitStack() as stack:
        yield url, Racers(url, stack)


@pytest.fixture
async def store(racers: tuple[str, Racers]) -> AsyncIterator[LimitStore]:
    redis = MultiplexedRedis(SecretStr(racers[0]), timeout_s=5)
    yield LimitStore(redis, process_id="referee")
    await redis.aclose()


# All but the last of each limit is taken before the race. A minute's limit of 2 gives nothing back within a round.
LAST: Final = {
    "request": (Limits(requests_per_minute=2), 0),
    "token of the minute": (Limits(tokens_per_minute=2), 1),
    "place": (Limits(concurrency=2), 0),
    "token of the day": (Limits(tokens_per_day=2), 1),
    "token of the month": (Limits(tokens_per_month=2), 1),
    "of all": (Limits(2, 2, 2, 2, 2), 1),
}


@pytest.mark.parametrize("scope", ["tenant", "key"])
@pytest.mark.parametrize("last", LAST)
async def test_one_in_a_thousand_gets_the_last(
    racers: tuple[str, Racers], store: LimitStore, scope: str, last: str
) -> None:
    limits, tokens = LAST[last]
    for _ in range(ROUNDS):
        one = Customer()
        setattr(one, scope, limits)
        await begin(store, one.tenant_id, one.spent())
        await admitted(store, one.ask(tokens))

        assert racers[1].race(one.ask(tokens)) == 1


@pytest.mark.parametrize(
    "limits",
    [Limits(tokens_per_day=37 * 11 + 10), Limits(tokens_per_month=37 * 11 + 10), Limits(concurrency=37)],
    ids=["tokens of the day", "tokens of the month", "places"],
)
async def test_a_thousand_at_once_get_exactly_what_there_is(
    racers: tuple[str, Racers], store: LimitStore, limits: Limits
) -> None:
    for _ in range(ROUNDS):
        one = Customer(tenant=limits, key=Limits(concurrency=999))
        await begin(store, one.tenant_id, one.spent())

        assert racers[1].race(one.ask(11)) == 37
