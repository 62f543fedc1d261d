"""Whatever is forgotten and whenever Redis is away: in the end the counters come to what was spent."""

import asyncio
import random
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

import pytest
from redis.exceptions import RedisError

from db.redis.limits import LimitStore
from domain.errors import LimitExceeded, Unavailable
from domain.usage import UsageRecord
from domain.values import KeyId, Principal, RequestId, TenantId
from tests.support.counts import count
from tests.support.limiters import A_DAY, EACH, Limiters, Process, exact, handed_over, limited, record_of
from tests.support.stoppable import StoppableValkey

STEPS: Final = 60


class Chance:
    """Processes that do what chance says; the ledger is a list, so that much can happen in a moment."""

    def __init__(self, limiters: Limiters, who: Principal, seed: int) -> None:
        self.random = random.Random(seed)
        self.limiters = limiters
        self.who = who
        self.ledger: dict[RequestId, UsageRecord] = {}
        self.processes: list[Process] = []
        self.running: dict[RequestId, Process] = {}
        self.tokens = 0
        limiters.spent = self._spent  # type: ignore[method-assign] # a list in place of the table

    async def _spent(
        self, tenant_id: TenantId, *, since: Collection[datetime], without: Collection[RequestId] = ()
    ) -> Mapping[datetime, Mapping[KeyId, int]]:
        await self._pause()
        assert tenant_id == self.who.tenant_id
        rows = [record for request_id, record in self.ledger.items() if request_id not in without]
        found: dict[datetime, dict[KeyId, int]] = {moment: {} for moment in since}
        for moment, by_key in found.items():
            for row in rows:
                if row.admission.started_at >= moment:
                    by_key[self.who.key_id] = by_key.get(self.who.key_id, 0) + EACH
        return found

    async def _pause(self) -> None:
        for _ in range(self.random.randrange(30)):
            await asyncio.sleep(0)

    async def step(self) -> None:
        """Do one thing."""
        await self._pause()
        process = self.random.choice(self.processes)
        what = self.random.choices(
            (self.take, self.end, self.account, self.confirm, self.hand_over, self.flush, self.doubt),
            weights=(30, 25, 15, 10, 15, 3, 3),
        )
        await what[0](process)

    async def take(self, process: Process) -> None:
        """Let a request in."""
        try:
            request_id = await process.take(self.who, self.random.randrange(1, 100))
        except (LimitExceeded, Unavailable):
            return
        self.running[request_id] = process

    async def end(self, _: Process) -> None:
        """Let one end."""
        if self.running:
            request_id = self.random.choice(list(self.running))
            self._end(request_id, self.running.pop(request_id))

    def _end(self, request_id: RequestId, process: Process) -> None:
        assert self.who.tenant_id is not None
        process.unconfirmed.append(record_of(self.who, request_id))
        self.tokens += EACH
        process.limiter.settle(self.who.tenant_id, request_id, EACH)

    async def account(self, process: Process) -> None:
        """Write some records to the ledger."""
        for record in process.unconfirmed[: self.random.randrange(4)]:
            self.ledger[record.admission.request_id] = record

    async def confirm(self, process: Process) -> None:
        """Let the process know what the ledger has."""
        process.unconfirmed[:] = [
            record for record in process.unconfirmed if record.admission.request_id not in self.ledger
        ]

    async def hand_over(self, process: Process) -> None:
        """Settle."""
        await process.limiter.settle_waiting()

    async def flush(self, _: Process) -> None:
        """Take Redis's memory."""
        await self.limiters.patient.flushdb()

    async def doubt(self, process: Process) -> None:
        """Have the counters made anew, as after a settlement that found nothing."""
        assert self.who.tenant_id is not None
        with suppress(RedisError):
            await LimitStore(process.redis, process_id=process.name).forget(self.who.tenant_id)

    async def finish(self) -> None:
        """Let all end and everything be told."""
        for request_id, process in list(self.running.items()):
            self._end(request_id, process)
        self.running.clear()
        await handed_over(*self.processes)


async def chance_over(limiters: Limiters, run: int) -> Chance:
    """Start three processes and leave them to chance."""
    seed = uuid4().int & 0xFFFFFFFF
    print(f"run {run}, seed {seed}")  # noqa: T201 - to play it again
    chance = Chance(limiters, limited(tokens_per_day=A_DAY * 100), seed)
    chance.processes = [await limiters.process() for _ in range(3)]
    return chance


async def ends_well(chance: Chance) -> None:
    """Check that Redis counts what was spent, and that nothing is held any more."""
    await chance.finish()
    assert await exact(chance.processes[0], chance.who) == A_DAY * 100 - chance.tokens
    await handed_over(*chance.processes)
    prefix = f"nng:{{t:{chance.who.tenant_id}}}"
    patient: Any = chance.limiters.patient
    assert [await patient.hgetall(f"{prefix}:{name}") for name in ("open", "running")] == [{}, {}]
    assert await exact(chance.processes[-1], chance.who) == A_DAY * 100 - chance.tokens


@pytest.mark.parametrize("run", range(count(6, 300)))
async def test_whatever_is_forgotten_the_counters_come_to_what_was_spent(
    limiters: Limiters, run: int
) -> None:
    chance = await chance_over(limiters, run)
    for _ in range(STEPS):
        await asyncio.gather(*(chance.step() for _ in range(8)))

    await ends_well(chance)


@pytest.mark.parametrize("run", range(count(1, 30)))
async def test_whenever_redis_is_away_the_counters_come_to_what_was_spent(
    outage: Limiters, own_valkey: StoppableValkey, run: int
) -> None:
    chance = await chance_over(outage, run)
    for _ in range(4):
        await asyncio.gather(*(chance.step() for _ in range(60)))
        with chance.random.choice((own_valkey.gone, own_valkey.silent))():
            await asyncio.gather(*(chance.step() for _ in range(40)), return_exceptions=True)

    await ends_well(chance)
