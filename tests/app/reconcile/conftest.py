"""Real stores, a directory of journals, and a limited tenant for whom it is about noon."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from uuid_utils.compat import uuid7

from app.gateway.journal import layout
from app.gateway.journal.entry import encode_record
from app.gateway.journal.journal import Journal
from app.gateway.journal.layout import JournalSize
from app.reconcile.findings import Finding, FindingKind
from app.reconcile.repair import Repairs
from app.reconcile.seen import Stores
from app.reconcile.survey import survey
from db.postgres import Database
from db.redis.connection import connect_patient
from db.redis.limit_recounts import LimitLeases
from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from db.usage import UsageRows
from domain.keys import PepperRing, mint_pepper
from domain.limits import Ask, LimitKind, Limits, Spent
from domain.periods import bounds
from domain.tenants import Actor
from domain.usage import Admission, UsageOutcome, UsageRecord
from domain.usage_spans import first_of_month
from domain.values import KeyId, RequestId, TenantId
from tests.support.limits import begin
from tests.support.usage import admission, settlement

SMALL = JournalSize(slots=8, ring_bytes=16 * layout.FRAME_MAX)
LIMITS = Limits(tokens_per_day=10**9)
ACTOR = Actor("test")
TOKENS = 8
"""What `settlement()` charges."""


async def at_once(_: float) -> None:
    """Pause for nothing."""


class World:
    """One gateway's stores, and what a test does to them. `owner_url` is for what the gateway's own role may not do."""

    def __init__(self, stores: Stores, scripts: MultiplexedRedis, owner_url: str) -> None:
        self.stores = stores
        self.owner_url = owner_url
        self.redis: Redis = stores.redis
        self.directory: Path = stores.directory
        self.limits = LimitStore(scripts, process_id="alive")
        self.leases = LimitLeases(scripts)
        self.rows = UsageRows(stores.database.engine)
        self._scripts = scripts
        # A zone in which no day or month begins while the test runs.
        self.zone = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
        self.tenant_id = TenantId(UUID(int=0))
        self.key_id = KeyId(UUID(int=0))

    async def settle_in(self) -> None:
        """Add the tenant with a key, limit it, and have Redis count."""
        async with self.stores.database.unit_of_work(ACTOR) as work:
            tenant = await work.tenants.create("acme", "Acme", time_zone=self.zone)
            issued = await work.keys(tenant.id).create("one", peppers=PepperRing.parse(mint_pepper("p1")))
            await work.limits(tenant.id).set({LimitKind.TOKENS_PER_DAY: 10**9})
        self.tenant_id, self.key_id = tenant.id, issued.summary.id
        await self.redis.hset("nng:revocations:seen", "alive", f"1:{(await self.redis.time())[0]}")
        await self.begin()

    async def begin(self) -> None:
        """Tell Redis that nothing is spent."""
        day, month = bounds(self.zone, datetime.now(UTC))
        spent = [
            Spent(kind, period.current, period.next, None, 0)
            for kind, period in ((LimitKind.TOKENS_PER_DAY, day), (LimitKind.TOKENS_PER_MONTH, month))
        ]
        assert await begin(self.limits, self.tenant_id, spent)

    def admission(self, request_id: UUID | None = None, *, counted: bool = False) -> Admission:
        """Build the admission of a request of a minute ago; only `counted` ones are the limited tenant's."""
        started_at = datetime.now(UTC) - timedelta(minutes=1)
        made = msgspec.structs.replace(
            admission(request_id or uuid7()), started_at=started_at, period=first_of_month(started_at)
        )
        if not counted:
            return made
        return msgspec.structs.replace(made, tenant_id=self.tenant_id, key_id=self.key_id)

    def record(
        self, request_id: UUID | None = None, *, outcome: UsageOutcome | None = None, counted: bool = False
    ) -> UsageRecord:
        """Build the record of such a request, which ended at once: 8 tokens."""
        admitted = self.admission(request_id, counted=counted)
        ended = msgspec.structs.replace(
            settlement(), outcome=outcome or UsageOutcome.COMPLETED, ended_at=admitted.started_at
        )
        return UsageRecord(admitted, ended)

    async def take(self, tokens: int = 100, *, process: str = "alive") -> RequestId:
        """Reserve tokens for a new request."""
        request_id = RequestId(uuid7())
        day, month = bounds(self.zone, datetime.now(UTC))
        ask = Ask(request_id, self.tenant_id, self.key_id, LIMITS, Limits(), tokens, day, month)
        await LimitStore(self._scripts, process_id=process).take(ask)
        return request_id

    async def age_reservations(self, seconds: int) -> None:
        """Make every reservation that much older."""
        script = """
        for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do
          local held = cmsgpack.unpack(redis.call('HGET', KEYS[1], id))
          held.at = held.at - tonumber(ARGV[1])
          redis.call('HSET', KEYS[1], id, cmsgpack.pack(held))
        end
        """
        await self.redis.eval(script, 1, f"{self.prefix}:open", str(seconds))

    @property
    def prefix(self) -> str:
        """What the tenant's keys in Redis begin with."""
        return f"nng:{{t:{self.tenant_id}}}"

    def journal(self, *records: UsageRecord, opened: tuple[Admission, ...] = ()) -> Journal:
        """Write a journal and hold it."""
        journal = Journal.create(self.directory, SMALL)
        for record in records:
            journal.append(encoded(record))
        for each in opened:
            journal.take_slot(layout.encoder.encode(each))
        return journal

    async def found(self) -> list[Finding]:
        """Return what differs."""
        return list((await survey(self.stores, since=_yesterday(), pause=at_once)).findings)

    async def kinds(self) -> list[FindingKind]:
        """Return which kinds of differences there are."""
        return sorted({finding.kind for finding in await self.found()})

    async def repair(self) -> list[str | None]:
        """Close what differs and return what was done."""
        repairs = Repairs(self.stores, self._scripts)
        return [await repairs.close(finding) for finding in await self.found()]

    async def outcomes(self) -> dict[UUID, str]:
        """Return how each request of the ledger ended."""
        async with self.stores.database.engine.connect() as connection:
            rows = await connection.exec_driver_sql("SELECT request_id, outcome::text FROM usage_records")
            return {row.request_id: row.outcome for row in rows}

    async def audited(self) -> list[str]:
        """Return the audited actions on the ledger."""
        async with self.stores.database.engine.connect() as connection:
            rows = await connection.exec_driver_sql(
                "SELECT action FROM audit_events WHERE action LIKE 'usage.%%' ORDER BY id"
            )
            return list(rows.scalars())


def encoded(record: UsageRecord) -> bytes:
    """Return a record as it stands in a journal."""
    return encode_record(layout.encoder.encode(record.admission), record.settlement)


def settle_earlier(path: Path, seconds: float) -> None:
    """Have every record in a journal's file settled that much earlier; no checksum covers the time."""
    content = bytearray(path.read_bytes())
    mark = layout.FRAME_MAGIC.to_bytes(4, "little")
    at = content.find(mark)
    while at >= 0:
        magic, length, number, settled_us, checksum = layout.FRAME.unpack_from(content, at)
        layout.FRAME.pack_into(content, at, magic, length, number, settled_us - int(seconds * 1e6), checksum)
        at = content.find(mark, at + 1)
    with path.open("r+b") as file:
        file.write(content)


def _yesterday() -> datetime:
    return datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
async def world(
    database_url: str, engine: AsyncEngine, redis_url: str, tmp_path: Path
) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(connect_patient(SecretStr(redis_url)))
        scripts = MultiplexedRedis(SecretStr(redis_url), timeout_s=5)
        stack.push_async_callback(scripts.aclose)
        world = World(Stores(Database(engine), redis, tmp_path / "journal", ACTOR), scripts, database_url)
        await world.settle_in()
        yield world
