"""A minute of kills under load (half an hour in the soak), and what must be true of it afterwards.

Everything that can die is killed again and again while clients of all kinds ask: app processes, the whole app, the
worker, Postgres (immediate stop), Valkey (with and without its data), and Redis is flushed. The schedule is drawn
from a seed, which is printed; `NNG_SEED=<seed>` draws the same one again. It runs once, in the fixture, which is
where the time of this module goes; each test then states one fact about it.
"""

import asyncio
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import Any, Final, cast
from uuid import UUID

import msgspec
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from app.lifespan import USABLE_WITHIN_S
from app.problems import NO_CANDIDATE
from db import migrate
from db.redis.connection import connect_patient
from db.tasks import end
from domain.limits import LimitKind
from domain.tenants import Actor
from tests.support.asking import ask
from tests.support.counts import chosen_seed, count
from tests.support.crowd import DEADLINE_S, EMBEDDER, GENERATORS, OK, Crowd, Told
from tests.support.demolition import Absence, Demolition, Target, schedule
from tests.support.gateway import Gateway, Key, UsageRow
from tests.support.limits import running_requests
from tests.support.ollama import SimulatedOllama
from tests.support.own_stores import OwnPostgres, OwnValkey
from tests.support.servers import APP_ROLE
from tests.support.witnesses import Witnesses

DURATION_S: Final = count(60, 1800)
CLIENTS: Final = 30
PROCESSES: Final = 2
SETTLED_WITHIN_S: Final = 15.0
BROKEN_WITHIN_S: Final = 2.0 + USABLE_WITHIN_S
"""What a new process may take until it listens, and what it waits for its stores before that."""
SERVED_PER_S: Final = 5
ENOUGH: Final = 10**9
ROOMY: Final = dict.fromkeys(LimitKind, ENOUGH) | {LimitKind.CONCURRENCY: 1000}
TIGHT: Final = ROOMY | {LimitKind.REQUESTS_PER_MINUTE: 240, LimitKind.CONCURRENCY: 5}

pytestmark = pytest.mark.timeout(DURATION_S + 300)


class Reservations(msgspec.Struct, frozen=True):
    """What Redis holds of one tenant: open reservations that nobody has given back, requests that run."""

    open: int
    running: int

    @property
    def any(self) -> bool:
        """Whether anything is left."""
        return bool(self.open or self.running)


class Aftermath(msgspec.Struct, frozen=True):
    """Everything that is known once all is quiet: from clients, backends, ledger, Redis and logs."""

    absences: Sequence[Absence]
    told: Sequence[Told]
    emitted: Counter[UUID]
    rows: Sequence[UsageRow]
    left: Mapping[str, Reservations]
    quiet_after_s: float
    spent: Mapping[str, tuple[int, int]]
    app_log: Sequence[str]

    def rows_by_id(self) -> dict[UUID, list[UsageRow]]:
        """Return the rows by request."""
        found: dict[UUID, list[UsageRow]] = defaultdict(list)
        for row in self.rows:
            found[row.request_id].append(row)
        return found


@pytest.fixture(scope="module")
async def aftermath(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Aftermath]:
    seed = chosen_seed()
    sys.stdout.write(f"NNG_SEED={seed}\n")
    directory = tmp_path_factory.mktemp("instance")
    # Left open to the unprivileged account that the stores run as when the tests are root's.
    directory.chmod(0o755)
    async with AsyncExitStack() as stack:
        postgres, valkey = OwnPostgres(directory), OwnValkey(directory, durable=True)
        stack.callback(postgres.stop)
        stack.callback(valkey.kill)
        postgres.start()
        valkey.start()
        await migrate.upgrade(postgres.url, app_role=APP_ROLE)
        backends = [
            SimulatedOllama.start(name=name, models=f"{models},{EMBEDDER}", tokens=40, token_interval_ms=25)
            for name, models in (("a", GENERATORS[0]), ("b", ",".join(GENERATORS)))
        ]
        for backend in backends:
            stack.push_async_callback(backend.stop)
        gateway = Gateway(
            database_url=postgres.url,
            redis_url=valkey.url,
            backends=backends,
            directory=directory,
            settings={"GATEWAY_WORKERS": str(PROCESSES)},
        )
        stack.push_async_callback(gateway.aclose)
        await gateway.start()
        redis = await stack.enter_async_context(connect_patient(SecretStr(valkey.url)))
        keys = {
            name: await limited(gateway, limits)
            for name, limits in (("open", {}), ("roomy", ROOMY), ("tight", TIGHT))
        }
        demolition = Demolition(gateway, postgres, valkey, redis, processes=PROCESSES)
        crowd = Crowd(gateway.url, tuple(keys.values()), size=CLIENTS, seed=seed)
        witnesses = Witnesses(backends)
        listening = asyncio.create_task(witnesses.keep_listening())
        asking = asyncio.create_task(crowd.run())
        try:
            await demolition.run(schedule(seed, duration_s=DURATION_S))
        finally:
            crowd.go_home()
            await asking
            await end(listening)
        await crowd.come_back()
        await witnesses.close_the_books()
        yield await look_around(
            gateway, redis, keys, demolition=demolition, crowd=crowd, emitted=witnesses.emitted()
        )


async def limited(gateway: Gateway, limits: Mapping[LimitKind, int]) -> Key:
    """Return the key of a new tenant with these limits."""
    key = await gateway.tenant()
    if limits:
        async with gateway.database.unit_of_work(Actor("test")) as work:
            await work.limits(key.tenant_id).set(dict(limits))
    return key


async def look_around(
    gateway: Gateway,
    redis: Redis,
    keys: Mapping[str, Key],
    *,
    demolition: Demolition,
    crowd: Crowd,
    emitted: Counter[UUID],
) -> Aftermath:
    """Wait until all is quiet, at most as long as is promised, and gather what there is to know."""
    began = time.monotonic()
    wanted = must_be_booked(crowd.told, emitted)
    left: dict[str, Reservations] = {}
    rows: list[UsageRow] = []
    while time.monotonic() < began + SETTLED_WITHIN_S:
        left = {name: await reservations(redis, key) for name, key in keys.items()}
        rows = [row for key in keys.values() for row in await gateway.rows_of(key)]
        if not any(one.any for one in left.values()) and wanted <= {row.request_id for row in rows}:
            break
        await asyncio.sleep(0.2)
    found = Aftermath(
        absences=tuple(demolition.absences),
        told=crowd.told,
        emitted=emitted,
        rows=rows,
        left=left,
        quiet_after_s=time.monotonic() - began,
        spent={name: await spent(gateway, redis, key) for name, key in keys.items() if name != "open"},
        app_log=gateway.app.log().splitlines(),
    )
    tell(found, demolition, crowd)
    return found


def must_be_booked(told: Sequence[Told], emitted: Counter[UUID]) -> set[UUID]:
    """Return every request that was admitted as far as client or backend can know."""
    return set(emitted) | {one.request_id for one in told if one.request_id and was_admitted(one)}


def was_admitted(told: Told) -> bool:
    """Tell whether its answer means that a request had been let in."""
    return told.status in {OK, 502} or (told.status == 503 and NO_CANDIDATE.encode() in told.content)


async def reservations(redis: Redis, key: Key) -> Reservations:
    """Read what Redis holds of a tenant."""
    prefix = f"nng:{{t:{key.tenant_id}}}"
    # Packed by Redis with keys' ids as they are, which no decoder takes for text.
    held = [cast("bytes", packed) for packed in await redis.hvals(f"{prefix}:open")]
    return Reservations(
        open=sum(b"swept" not in one for one in held),
        running=len(running_requests(await redis.hgetall(f"{prefix}:now"))),
    )


async def spent(gateway: Gateway, redis: Redis, key: Key) -> tuple[int, int]:
    """Return a tenant's tokens of the newest day in Redis, and those of its rows since then."""
    deadline = time.monotonic() + SETTLED_WITHIN_S
    async with gateway.client(key) as client:
        while True:
            if not await redis.hexists(f"nng:{{t:{key.tenant_id}}}:now", "epoch"):
                # Counters that are in doubt are made anew by the next request.
                reply = await ask(client, model=GENERATORS[0])
                assert reply.status_code == OK, reply.text
                await gateway.row(reply)
            counted, start = await counted_today(redis, key)
            rows = [row for row in await gateway.rows_of(key) if row.started_at.timestamp() >= start]
            booked = sum(row.tokens_in + row.tokens_out for row in rows)
            if counted == booked or time.monotonic() > deadline:
                return counted, booked
            await asyncio.sleep(0.2)


async def counted_today(redis: Redis, key: Key) -> tuple[int, int]:
    """Return what Redis counts of the newest day, and when that began."""
    days = [name async for name in redis.scan_iter(f"nng:{{t:{key.tenant_id}}}:d:*")]
    found = {int(bytes(day).rpartition(b":")[2]): int(await redis.hget(day, "t") or 0) for day in days}
    start = max((day for day in found if day <= time.time()), default=0)
    return found.get(start, -1), start


def tell(found: Aftermath, demolition: Demolition, crowd: Crowd) -> None:
    """Print what happened."""
    replaced = [one for one in found.absences if one.target is Target.APP_PROCESS]
    heads = sorted(one.head_at - one.began for one in found.told if one.head_at)
    sys.stdout.write(
        f"kills: {dict(demolition.count())}\n"
        f"requests: {dict(crowd.count())}; rows: {dict(Counter(row.outcome for row in found.rows))}\n"
        f"head after at most {heads[-1]:.2f} s, median {heads[len(heads) // 2] * 1000:.0f} ms\n"
        f"one app process replaced after {median(one.back_at - one.gone_at for one in replaced):.1f} s (median)\n"
        f"quiet {found.quiet_after_s:.1f} s after the last return; still held: {found.left}\n"
    )


async def test_a_seed_draws_the_same_schedule_again() -> None:
    assert schedule(7, duration_s=60) == schedule(7, duration_s=60)
    assert schedule(7, duration_s=60) != schedule(8, duration_s=60)


async def test_every_kind_of_death_came_and_requests_were_served_all_the_same(aftermath: Aftermath) -> None:
    assert {absence.target for absence in aftermath.absences} == set(Target)
    assert Counter(one.status for one in aftermath.told)[OK] > SERVED_PER_S * DURATION_S


async def test_every_admitted_request_has_exactly_one_row(aftermath: Aftermath) -> None:
    rows = aftermath.rows_by_id()
    wanted = must_be_booked(aftermath.told, aftermath.emitted)

    assert {number: len(rows[number]) for number in wanted if len(rows[number]) != 1} == {}
    assert [number for number, found in rows.items() if len(found) > 1] == []
    assert len(rows) <= len(aftermath.told)


async def test_what_was_refused_before_admission_has_no_row(aftermath: Aftermath) -> None:
    rows = aftermath.rows_by_id()
    refused = [one for one in aftermath.told if one.request_id and one.status not in {0, OK, 502}]

    assert [one.status for one in refused if not was_admitted(one) and one.request_id in rows] == []


async def test_streams_are_charged_at_least_what_was_received_and_at_most_what_was_emitted(
    aftermath: Aftermath,
) -> None:
    rows, emitted = aftermath.rows_by_id(), aftermath.emitted
    streams = [one for one in aftermath.told if one.kind.streamed and one.status == OK and one.request_id]
    charged = [
        (row.outcome, row.estimated, one.records, row.tokens_out, emitted[row.request_id])
        for one in streams
        if one.request_id
        for row in rows[one.request_id]
    ]

    assert [line for line in charged if not line[2] <= line[3] <= line[4]] == []
    assert charged


async def test_no_reservation_is_left(aftermath: Aftermath) -> None:
    assert {name: left for name, left in aftermath.left.items() if left.any} == {}


async def test_redis_counts_the_tokens_that_the_rows_do(aftermath: Aftermath) -> None:
    assert {name: pair for name, pair in aftermath.spent.items() if pair[0] != pair[1]} == {}


async def test_refusals_speak_the_shape_of_their_family_and_say_when_to_come_back(
    aftermath: Aftermath,
) -> None:
    wrong = []
    for one in aftermath.told:
        if one.status in {0, OK}:
            continue
        error = json.loads(one.content)["error"]
        fits = (
            isinstance(error, str) if one.kind.native else {"message", "type", "param", "code"} == set(error)
        )
        if (
            not fits
            or one.status not in {429, 502, 503}
            or (one.status != 502 and "retry-after" not in one.headers)
        ):
            wrong.append((one.kind.path, one.status, one.content))

    assert wrong == []


async def test_nobody_waits_for_ever(aftermath: Aftermath) -> None:
    late = [(one.kind.path, one.status, one.records) for one in aftermath.told if one.end == "late"]

    assert late == [], f"nothing more within {DEADLINE_S:g} s"


async def test_a_connection_breaks_only_with_its_process(aftermath: Aftermath) -> None:
    deaths = [one for one in aftermath.absences if one.target in {Target.APP, Target.APP_PROCESS}]
    lost = [one for one in aftermath.told if one.end in {"broken", "refused"}]

    assert [
        (one.end, one.status, one.kind.path, one.ended - one.began)
        for one in lost
        if not any(death.covers(one.ended, after_s=BROKEN_WITHIN_S) for death in deaths)
    ] == []


async def test_no_accepted_answer_ends_with_an_error(aftermath: Aftermath) -> None:
    assert [(one.kind.path, one.end) for one in aftermath.told if one.status == OK and one.has_error] == []


async def test_the_app_meets_nothing_that_it_was_not_made_for(aftermath: Aftermath) -> None:
    unexpected = Counter[str]()
    for line in aftermath.app_log:
        event = logged(line)
        told_of_a_death = "Unexpected exit from worker" in event["event"]
        if not told_of_a_death and (event.get("level") in {None, "error"} or "exception" in event):
            unexpected[str(event)[:400]] += 1

    assert unexpected == {}


def logged(line: str) -> Mapping[str, Any]:
    """Return an event of the log. A killed process may leave the half of one; granian's own are plain text."""
    if not line.startswith("{"):
        return {"event": line}
    try:
        return cast("Mapping[str, Any]", json.loads(line))
    except json.JSONDecodeError:
        return {"event": "(half a line)", "level": "info"}
