"""The ledger: every request once, its first real ending for good, sums that add up."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from time import perf_counter
from uuid import UUID

import anyio
import asyncpg
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from uuid_utils.compat import uuid7

from db.usage import UsageRows
from domain.usage import Admission, Durations, Settlement, UsageOutcome, UsageRecord
from domain.usage_report import UsageGroup, UsageReport, UsageSum
from domain.values import ApiFamily, KeyId, RequestId, TenantId
from tests.support.rows import ACME, ONE, TWO, add_acme

DAY = datetime(2031, 5, 30, 22, 0, tzinfo=UTC)
COMPLETED = UsageOutcome.COMPLETED
LOST = UsageOutcome.LOST


@pytest.fixture
def rows(engine: AsyncEngine) -> UsageRows:
    return UsageRows(engine)


def admission(
    started_at: datetime = DAY, tenant: UUID = ACME, key: UUID = ONE, model: str = "m:1"
) -> Admission:
    return Admission(
        request_id=RequestId(uuid7()),
        period=started_at.date().replace(day=1),
        tenant_id=TenantId(tenant),
        key_id=KeyId(key),
        model=model,
        model_digest="sha256:1",
        api_family=ApiFamily.NATIVE,
        route="/api/chat",
        started_at=started_at,
        prompt_tokens_estimate=3,
        client_request_id='the "client\'s" own',
    )


def settlement(
    outcome: UsageOutcome = COMPLETED, tokens_out: int = 20, backend: str | None = "a"
) -> Settlement:
    return Settlement(
        outcome=outcome,
        ended_at=DAY + timedelta(seconds=3),
        tokens_in=10,
        tokens_out=tokens_out,
        tokens_cached=None,
        estimated=outcome is not COMPLETED,
        backend=backend,
        attempted_backends=() if backend is None else ("b", backend),
        durations=Durations(load_us=1, prompt_us=2, eval_us=3, total_us=2**40),
    )


def record(started_at: datetime = DAY, **settled: object) -> UsageRecord:
    return UsageRecord(admission(started_at), settlement(**settled))  # type: ignore[arg-type]


async def outcomes(sql: asyncpg.Connection) -> list[tuple[str, int]]:
    found = await sql.fetch("SELECT outcome, tokens_out FROM usage_records ORDER BY request_id")
    return [(row["outcome"], row["tokens_out"]) for row in found]


async def test_every_fact_of_a_record_is_stored(rows: UsageRows, sql: asyncpg.Connection) -> None:
    written = record()
    await rows.insert_batch([written])

    row = dict(await sql.fetchrow("SELECT * FROM usage_records") or {})
    spans = {name: row.pop(name) for name in Durations.__struct_fields__}
    assert row.pop("attempts") == len(row["attempted_backends"]) == 2
    row["attempted_backends"] = tuple(row["attempted_backends"])
    facts = msgspec.structs.asdict(written.admission) | msgspec.structs.asdict(written.settlement)
    del facts["prompt_tokens_estimate"]  # became tokens_in where nobody measured
    assert msgspec.structs.asdict(facts.pop("durations")) == spans
    assert row == facts


async def test_a_repeated_batch_changes_nothing(rows: UsageRows, sql: asyncpg.Connection) -> None:
    batch = [record(), record()]

    assert [await rows.insert_batch(batch) for _ in range(2)] == [2, 0]
    assert len(await outcomes(sql)) == 2


async def test_a_lost_record_gives_way_to_its_real_ending(rows: UsageRows, sql: asyncpg.Connection) -> None:
    admitted = admission()
    await rows.insert_batch([UsageRecord(admitted, settlement(LOST, 5))])

    assert await rows.insert_batch([UsageRecord(admitted, settlement(COMPLETED, 7))]) == 1
    assert await outcomes(sql) == [("completed", 7)]


@pytest.mark.parametrize("later", [LOST, UsageOutcome.CUT])
async def test_a_settled_record_stays(rows: UsageRows, sql: asyncpg.Connection, later: UsageOutcome) -> None:
    admitted = admission()
    await rows.insert_batch([UsageRecord(admitted, settlement(COMPLETED, 7))])

    assert await rows.insert_batch([UsageRecord(admitted, settlement(later, 5))]) == 0
    assert await outcomes(sql) == [("completed", 7)]


@pytest.mark.parametrize("endings", [[LOST, COMPLETED], [COMPLETED, LOST], [COMPLETED, COMPLETED]])
async def test_one_batch_may_name_a_request_twice(
    rows: UsageRows, sql: asyncpg.Connection, endings: list[UsageOutcome]
) -> None:
    admitted = admission()

    assert await rows.insert_batch([UsageRecord(admitted, settlement(ending)) for ending in endings]) == 1
    assert await outcomes(sql) == [("completed", 20)]


async def test_an_empty_batch_is_nothing(rows: UsageRows) -> None:
    assert await rows.insert_batch([]) == 0


async def test_two_workers_may_write_the_same_batch(rows: UsageRows, sql: asyncpg.Connection) -> None:
    batch = [record() for _ in range(200)]
    written: list[int] = []

    async def write(records: list[UsageRecord]) -> None:
        written.append(await rows.insert_batch(records))

    async with anyio.create_task_group() as workers:
        workers.start_soon(write, batch)
        workers.start_soon(write, batch)

    assert sum(written) == len(await outcomes(sql)) == 200


async def test_a_month_without_partition_gets_one(rows: UsageRows, sql: asyncpg.Connection) -> None:
    await rows.insert_batch(
        [record(datetime(2029, 2, 28, 23, tzinfo=UTC)), record(datetime(2031, 12, 1, tzinfo=UTC))]
    )

    found = await sql.fetch("SELECT tableoid::regclass::text FROM usage_records ORDER BY period")
    assert [row[0] for row in found] == ["usage_records_2029_02", "usage_records_2031_12"]


async def test_two_workers_may_make_the_same_month(rows: UsageRows, sql: asyncpg.Connection) -> None:
    async with anyio.create_task_group() as workers:
        for _ in range(4):
            workers.start_soon(rows.make_months, [date(2029, 2, 1)])

    assert await sql.fetchval("SELECT to_regclass('usage_records_2029_02')") is not None


@pytest.mark.parametrize(
    "change",
    [
        "SET tokens_out = 0 WHERE outcome = 'completed'",
        "SET tokens_out = 0 WHERE outcome = 'lost'",
        "SET outcome = 'lost' WHERE outcome = 'completed'",
        "SET outcome = 'cut', request_id = gen_random_uuid() WHERE outcome = 'lost'",
    ],
)
async def test_the_database_refuses_to_rewrite_usage(
    rows: UsageRows, sql: asyncpg.Connection, change: str
) -> None:
    await rows.insert_batch([record(outcome=COMPLETED), record(outcome=LOST)])

    with pytest.raises(asyncpg.RestrictViolationError, match="is settled"):
        await sql.execute(f"UPDATE usage_records {change}")


async def test_usage_outlives_its_tenant(rows: UsageRows, sql: asyncpg.Connection) -> None:
    await add_acme(sql)
    await rows.insert_batch([record()])
    await sql.execute("DELETE FROM tenants")

    (line,) = (await report(rows, UsageGroup.TENANT)).lines
    assert line.label == str(ACME)


async def report(rows: UsageRows, group: UsageGroup, tenant: UUID | None = None) -> UsageReport:
    return await rows.summary(
        group,
        since=DAY - timedelta(days=40),
        until=DAY + timedelta(days=40),
        tenant_id=None if tenant is None else TenantId(tenant),
    )


@pytest.fixture
async def month(rows: UsageRows, sql: asyncpg.Connection) -> None:
    """Four requests: two keys, two models, two days in two months, one of another tenant."""
    await add_acme(sql)
    late = DAY + timedelta(days=2)
    await rows.insert_batch(
        [
            UsageRecord(admission(), settlement(tokens_out=1)),
            UsageRecord(admission(key=TWO), settlement(tokens_out=2, backend="b")),
            UsageRecord(admission(late, model="m:2"), settlement(LOST, 4, backend=None)),
            UsageRecord(admission(late, tenant=TWO, key=ACME), settlement(tokens_out=8)),
        ]
    )


@pytest.mark.parametrize(
    ("group", "tokens_out"),
    [
        (UsageGroup.TENANT, {"acme": 7, str(TWO): 8}),
        (UsageGroup.MODEL, {"m:1": 11, "m:2": 4}),
        (UsageGroup.DAY, {"2031-05-30": 3, "2031-06-01": 12}),
        (UsageGroup.BACKEND, {"": 4, "a": 9, "b": 2}),
        (UsageGroup.OUTCOME, {"completed": 11, "lost": 4}),
    ],
)
@pytest.mark.usefixtures("month")
async def test_sums_are_grouped(rows: UsageRows, group: UsageGroup, tokens_out: dict[str, int]) -> None:
    lines = (await report(rows, group)).lines

    assert {line.label: line.tokens_out for line in lines} == tokens_out


@pytest.mark.usefixtures("month")
async def test_keys_are_labelled_by_prefix(rows: UsageRows, sql: asyncpg.Connection) -> None:
    prefix = await sql.fetchval("SELECT prefix FROM api_keys WHERE id = $1", ONE)

    assert prefix in [line.label for line in (await report(rows, UsageGroup.KEY)).lines]


@pytest.mark.parametrize("group", UsageGroup)
@pytest.mark.usefixtures("month")
async def test_every_grouping_has_the_same_total(rows: UsageRows, group: UsageGroup) -> None:
    assert (await report(rows, group)).total == UsageSum(
        label="total",
        requests=4,
        tokens_in=40,
        tokens_out=15,
        tokens_cached=0,
        estimated_requests=1,
        busy_us=24,
    )


@pytest.mark.usefixtures("month")
async def test_one_tenant_is_summed_alone(rows: UsageRows) -> None:
    assert (await report(rows, UsageGroup.DAY, ACME)).total.tokens_out == 7


@pytest.mark.usefixtures("month")
async def test_the_end_of_a_span_is_left_out(rows: UsageRows) -> None:
    spans: list[Callable[[], tuple[datetime, datetime]]] = [
        lambda: (DAY, DAY + timedelta(days=2)),
        lambda: (DAY + timedelta(microseconds=1), DAY + timedelta(days=2, microseconds=1)),
    ]
    sums = [await rows.summary(UsageGroup.DAY, since=span()[0], until=span()[1]) for span in spans]

    assert [found.total.tokens_out for found in sums] == [3, 12]


async def test_no_usage_is_a_total_of_nothing(rows: UsageRows) -> None:
    nothing = await report(rows, UsageGroup.MODEL)

    assert (nothing.lines, nothing.total.requests, nothing.total.tokens_out) == ((), 0, 0)


async def test_a_tenants_days_are_read_from_its_index(sql: asyncpg.Connection) -> None:
    await sql.execute("SET enable_seqscan = off")
    plan = await sql.fetch(
        "EXPLAIN SELECT started_at::date, sum(tokens_out) FROM usage_records"
        f" WHERE tenant_id = '{ACME}' AND started_at >= now() AND period >= CURRENT_DATE GROUP BY 1"
    )

    assert any("tenant_id_started_at" in row[0] for row in plan)


async def test_five_hundred_records_take_less_than_the_promised_time(rows: UsageRows) -> None:
    await rows.insert_batch([record()])  # connects, plans, and makes the month
    took = []
    for _ in range(5):
        batch = [record() for _ in range(500)]
        began = perf_counter()
        await rows.insert_batch(batch)
        took.append(perf_counter() - began)

    assert sorted(took)[2] < 0.25  # 20 ms on a quiet machine; this guards the shape, not the machine
