"""What is killed when, and for how long it stays away: drawn from a seed, so that it can be drawn again."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec
from redis.asyncio import Redis

from tests.support.gateway import READY_WITHIN_S, Gateway
from tests.support.own_stores import OwnPostgres, OwnValkey
from tests.support.processes import app_processes
from tests.support.waiting import until


class Target(StrEnum):
    """What a kill hits. All but the last two are SIGKILL or the server's own harshest stop."""

    APP_PROCESS = "one app process"
    APP = "whole app"
    WORKER = "worker"
    POSTGRES = "Postgres"
    VALKEY = "Valkey"
    VALKEY_WIPED = "Valkey and its data"
    FLUSHALL = "FLUSHALL"


SHARES: Final[Mapping[Target, int]] = {
    Target.APP_PROCESS: 3,
    Target.APP: 1,
    Target.WORKER: 3,
    Target.POSTGRES: 2,
    Target.VALKEY: 2,
    Target.VALKEY_WIPED: 1,
    Target.FLUSHALL: 2,
}
LONGEST_AWAY_S: Final[Mapping[Target, float]] = {
    Target.APP: 1.0,
    Target.WORKER: 4.0,
    Target.POSTGRES: 4.0,
    Target.VALKEY: 4.0,
    Target.VALKEY_WIPED: 4.0,
}
PAUSE_S: Final = (0.5, 3.5)


class Kill(msgspec.Struct, frozen=True):
    """One line of the schedule; `at_s` counts from the start. `victim` chooses among several processes."""

    at_s: float
    target: Target
    away_s: float
    victim: int


class Absence(msgspec.Struct, frozen=True):
    """How long something was really away, in monotonic seconds."""

    target: Target
    gone_at: float
    back_at: float

    def covers(self, moment: float, *, after_s: float) -> bool:
        """Tell whether that was during the absence or so shortly after it."""
        return self.gone_at <= moment <= self.back_at + after_s


def schedule(seed: int, *, duration_s: float) -> tuple[Kill, ...]:
    """Draw the kills of a run, so that all targets have their share whatever the seed."""
    draw = random.Random(seed)
    bag: list[Target] = []
    kills: list[Kill] = []
    at_s = draw.uniform(*PAUSE_S)
    while at_s < duration_s:
        if not bag:
            bag = [target for target, share in SHARES.items() for _ in range(share)]
            draw.shuffle(bag)
        target = bag.pop()
        longest_s = min(LONGEST_AWAY_S.get(target, 0.0), duration_s - at_s)
        kills.append(Kill(at_s, target, draw.uniform(0, longest_s), draw.randrange(1000)))
        at_s += draw.uniform(*PAUSE_S)
    return tuple(kills)


class Demolition:
    """Carries out a schedule and brings everything back. Several things may be away at the same time."""

    def __init__(
        self, gateway: Gateway, postgres: OwnPostgres, valkey: OwnValkey, redis: Redis, *, processes: int
    ) -> None:
        self._gateway = gateway
        self._postgres = postgres
        self._valkey = valkey
        self._redis = redis
        self._processes = processes
        self._app, self._worker, self._sql, self._cache = (asyncio.Lock() for _ in range(4))
        self.absences: list[Absence] = []

    async def run(self, kills: Sequence[Kill]) -> None:
        """Return once the last thing is back."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for kill in kills:
                await asyncio.sleep(began + kill.at_s - time.monotonic())
                group.create_task(self._carry_out(kill))

    def count(self) -> Counter[str]:
        """Return how often each target was hit."""
        return Counter(absence.target.value for absence in self.absences)

    async def _carry_out(self, kill: Kill) -> None:
        act = {
            Target.APP_PROCESS: self._one_process,
            Target.APP: self._whole_app,
            Target.WORKER: self._one_worker,
            Target.POSTGRES: self._postgres_server,
            Target.VALKEY: self._valkey_server,
            Target.VALKEY_WIPED: self._valkey_server,
            Target.FLUSHALL: self._flush,
        }[kill.target]
        gone_at = await act(kill)
        self.absences.append(Absence(kill.target, gone_at, time.monotonic()))

    async def _one_process(self, kill: Kill) -> float:
        async with self._app:
            serving = app_processes(self._gateway)
            gone_at = time.monotonic()
            victim = serving[kill.victim % len(serving)]
            os.kill(victim, signal.SIGKILL)
            await self._all_processes(other_than=victim)
        return gone_at

    async def _whole_app(self, kill: Kill) -> float:
        async with self._app:
            gone_at = time.monotonic()
            self._gateway.app.kill()
            await asyncio.sleep(kill.away_s)
            self._gateway.app.start()
            await self._all_processes()
        return gone_at

    async def _all_processes(self, *, other_than: int | None = None) -> None:
        def serve() -> bool:
            serving = app_processes(self._gateway)
            return other_than not in serving and len(serving) == self._processes

        try:
            await until(serve, within_s=READY_WITHIN_S)
        except TimeoutError:
            said = self._gateway.app.log()[-4000:]
            raise AssertionError(f"not all app processes are back; the app says:\n{said}") from None

    async def _one_worker(self, kill: Kill) -> float:
        async with self._worker:
            gone_at = time.monotonic()
            self._gateway.worker.kill()
            await asyncio.sleep(kill.away_s)
            self._gateway.worker.start()
        return gone_at

    async def _postgres_server(self, kill: Kill) -> float:
        async with self._sql:
            gone_at = time.monotonic()
            await self._postgres.stop_immediately()
            await asyncio.sleep(kill.away_s)
            await self._postgres.come_back()
        return gone_at

    async def _valkey_server(self, kill: Kill) -> float:
        async with self._cache:
            gone_at = time.monotonic()
            self._valkey.kill()
            if kill.target is Target.VALKEY_WIPED:
                self._valkey.wipe()
            await asyncio.sleep(kill.away_s)
            await self._valkey.come_back()
        return gone_at

    async def _flush(self, _: Kill) -> float:
        async with self._cache:
            gone_at = time.monotonic()
            await self._redis.flushall()
        return gone_at
