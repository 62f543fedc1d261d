"""Failed logins in the audit log: each on its own or folded, none left out, whatever a flood or Postgres does."""

import asyncio
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from app.admin.failed_logins import (
    ALL_OWN_EVENTS_A_MINUTE,
    FOLDS_A_MINUTE,
    MAX_HOLDERS,
    MAX_WAITING,
    OWN_EVENTS_A_MINUTE,
    FailedLogin,
    FailedLogins,
    Reason,
    reason_of,
)
from app.metrics import Metrics
from db.postgres import Database, create_engine
from db.refused_keys import RefusedKeys
from db.tasks import end
from domain.keys import PepperRing, mint, mint_pepper
from domain.tenants import Actor, KeyStatus, RefusedKey
from domain.values import KeyId, Role
from tests.support.waiting import until

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def failure(
    number: int = 1,
    *,
    at: datetime = NOW,
    reason: Reason | None = Reason.MALFORMED,
    digests: tuple[bytes, ...] = (),
) -> FailedLogin:
    """Build a failure of the address with this number."""
    address = ip_address("10.0.0.0") + number
    return FailedLogin("unknown", address, uuid4(), at, reason, digests)


class World:
    """Failures on their way to a database, and what became of them."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.metrics = Metrics()
        self.database = Database(engine)
        self.failed = FailedLogins(
            self.database, find=RefusedKeys(engine).find_by_digest, metrics=self.metrics
        )

    def noted(self, how: str) -> float:
        return float(
            self.metrics.registry.get_sample_value("nng_admin_failed_logins_total", {"noted": how}) or 0
        )

    def flood(self, count: int, number: int = 1) -> None:
        for position in range(count):
            self.failed.note(failure(number, at=NOW + timedelta(seconds=position)))

    async def written(self) -> list[dict[str, Any]]:
        """Write everything and return what events have in `after`, and their addresses."""
        await self.failed.finish()
        async with self.database.engine.connect() as connection:
            found = await connection.exec_driver_sql(
                "SELECT after, address FROM audit_events ORDER BY at, id"
            )
            return [dict(row.after) | {"address": str(row.address)} for row in found]


@pytest.fixture
def world(engine: AsyncEngine) -> World:
    return World(engine)


async def test_a_failure_has_an_event_of_its_own(world: World) -> None:
    world.failed.note(failure())

    (event,) = await world.written()
    assert event == {
        "reason": "malformed",
        "attempts": 1,
        "first_at": "2026-05-01T00:00:00Z",
        "last_at": "2026-05-01T00:00:00Z",
        "address": "10.0.0.1",
    }


async def test_more_than_a_few_a_minute_share_one_that_counts_them(world: World) -> None:
    world.flood(OWN_EVENTS_A_MINUTE + 500)

    *own, folded = await world.written()
    assert len(own) == OWN_EVENTS_A_MINUTE
    assert (folded["attempts"], folded["reason"], folded["address"]) == (500, None, "10.0.0.1")
    assert (folded["first_at"], folded["last_at"]) == ("2026-05-01T00:00:06Z", "2026-05-01T00:08:25Z")


async def test_the_next_minute_has_events_of_its_own_again(world: World) -> None:
    world.flood(OWN_EVENTS_A_MINUTE)
    world.failed.close_minute()
    world.flood(OWN_EVENTS_A_MINUTE)

    assert [event["attempts"] for event in await world.written()] == [1] * 2 * OWN_EVENTS_A_MINUTE


async def test_a_flood_from_everywhere_stays_small_and_is_counted_whole(world: World) -> None:
    for number in range(MAX_HOLDERS + 2000):
        world.failed.note(failure(number))

    events = await world.written()
    assert len(events) <= ALL_OWN_EVENTS_A_MINUTE + FOLDS_A_MINUTE
    assert sum(event["attempts"] for event in events) == MAX_HOLDERS + 2000
    assert world.noted("lost") == 0


async def test_the_busiest_addresses_keep_an_event_of_their_own(world: World) -> None:
    for number in range(2, 1000):
        world.failed.note(failure(number))
    world.flood(50, number=1)

    events = await world.written()
    assert [event["attempts"] for event in events if event["address"] == "10.0.0.1"] == [50]


async def test_the_reason_is_looked_up_when_it_is_written(
    world: World, sql: asyncpg.Connection, peppers: PepperRing
) -> None:
    async with world.database.unit_of_work(Actor("test")) as work:
        issued = await work.keys(None).create("gone", peppers=peppers)
        await work.keys(None).revoke(issued.minted.prefix)
    known, unknown = issued.minted.reveal(), mint(Role.ADMIN).reveal()

    for key in (known, unknown):
        world.failed.note(failure(reason=None, digests=peppers.digests(key)))
    await world.failed.finish()

    found = await sql.fetch("SELECT subject, after FROM audit_events WHERE actor = 'unknown' ORDER BY at, id")
    assert [(row["subject"], msgspec.json.decode(row["after"])["reason"]) for row in found] == [
        (f"key:{issued.summary.id}", "revoked"),
        ("admin", "unknown"),
    ]


async def test_while_postgres_does_not_answer_events_wait(database_url: str, sql: asyncpg.Connection) -> None:
    engine = create_engine(database_url, application_name="test", statement_timeout_s=0.1)
    world = World(engine)
    writing = asyncio.create_task(world.failed.keep_writing())
    with capture_logs() as logs:
        async with sql.transaction():
            await sql.execute("LOCK TABLE audit_events")
            world.flood(3)
            await until(lambda: "failed_logins_not_written" in {log["event"] for log in logs}, within_s=10)

        await until(lambda: world.failed.waiting == 0, within_s=10)
    await end(writing)
    assert await sql.fetchval("SELECT count(*) FROM audit_events") == 3
    assert world.noted("lost") == 0
    await engine.dispose()


async def test_what_waits_is_bounded_and_what_is_lost_in_the_end_is_counted() -> None:
    engine = create_engine("postgresql://u:p@127.0.0.1:1/none", application_name="test")
    world = World(engine)
    for _ in range(30):
        for number in range(300):
            world.failed.note(failure(number))
        world.failed.close_minute()

    assert world.failed.waiting <= MAX_WAITING
    await world.failed.finish()
    assert world.noted("lost") == 30 * 300
    await engine.dispose()


async def test_an_event_that_postgres_refuses_does_not_keep_others_waiting(world: World) -> None:
    world.failed.note(FailedLogin("", ip_address("10.0.0.9"), uuid4(), NOW, Reason.MALFORMED))
    world.failed.note(failure())

    (event,) = await world.written()
    assert event["address"] == "10.0.0.1"
    assert world.noted("lost") == 1


@pytest.fixture(scope="module")
def peppers() -> PepperRing:
    return PepperRing.parse(mint_pepper("p1"))


@pytest.fixture
async def sql(database_url: str) -> Any:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


KEY = RefusedKey(KeyId(uuid4()), Role.ADMIN, KeyStatus.ACTIVE, None, ())


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, Reason.UNKNOWN),
        (msgspec.structs.replace(KEY, role=Role.INFERENCE, status=KeyStatus.REVOKED), Reason.TENANT_KEY),
        (msgspec.structs.replace(KEY, status=KeyStatus.REVOKED, expires_at=NOW), Reason.REVOKED),
        (msgspec.structs.replace(KEY, expires_at=NOW), Reason.EXPIRED),
        (msgspec.structs.replace(KEY, expires_at=NOW + timedelta(seconds=1)), Reason.UNKNOWN),
        (msgspec.structs.replace(KEY, allowed_networks=(str(ip_network("10.0.0.0/8")),)), Reason.NETWORK),
        (KEY, Reason.UNKNOWN),
    ],
)
def test_why_a_key_did_not_let_its_holder_in(found: RefusedKey | None, reason: Reason) -> None:
    assert reason_of(found, failure()) is reason
