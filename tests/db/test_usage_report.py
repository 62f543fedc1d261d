"""Sums over the ledger add up, however they are grouped."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from db.postgres import create_engine
from db.usage import UsageRows
from domain.usage import UsageRecord
from domain.usage_report import UsageGroup, UsageReport, UsageSum
from domain.values import TenantId
from tests.support.ledger_records import DAY, LOST, admission, settlement
from tests.support.rows import ACME, ONE, TWO, add_acme
from tests.support.servers import Databases

NOBODY = UUID(int=99)


@pytest.fixture(scope="module")
def url(postgres: Databases, migrated_template: str) -> str:
    return postgres.create(template=migrated_template)


@pytest.fixture(scope="module")
async def rows(url: str) -> AsyncIterator[UsageRows]:
    """Four requests: two keys, two models, two days in two months, one of a tenant that is gone."""
    connection = await asyncpg.connect(url)
    await add_acme(connection)
    await connection.close()
    engine = create_engine(url, application_name="test")
    rows = UsageRows(engine)
    late = DAY + timedelta(days=2)
    await rows.insert_batch(
        [
            UsageRecord(admission(), settlement(tokens_out=1)),
            UsageRecord(admission(key=TWO), settlement(tokens_out=2, backend="b")),
            UsageRecord(admission(late, model="m:2"), settlement(LOST, 4, backend=None)),
            UsageRecord(admission(late, tenant=TWO, key=ACME), settlement(tokens_out=8)),
        ]
    )
    yield rows
    await engine.dispose()


async def report(rows: UsageRows, group: UsageGroup, tenant: UUID | None = None) -> UsageReport:
    return await rows.summary(
        group,
        since=DAY - timedelta(days=40),
        until=DAY + timedelta(days=40),
        tenant_id=None if tenant is None else TenantId(tenant),
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
async def test_sums_are_grouped(rows: UsageRows, group: UsageGroup, tokens_out: dict[str, int]) -> None:
    lines = (await report(rows, group)).lines

    assert {line.label: line.tokens_out for line in lines} == tokens_out


async def test_keys_are_labelled_by_prefix(rows: UsageRows, url: str) -> None:
    connection = await asyncpg.connect(url)
    prefix = await connection.fetchval("SELECT prefix FROM api_keys WHERE id = $1", ONE)
    await connection.close()

    assert prefix in [line.label for line in (await report(rows, UsageGroup.KEY)).lines]


@pytest.mark.parametrize("group", UsageGroup)
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


async def test_one_tenant_is_summed_alone(rows: UsageRows) -> None:
    assert (await report(rows, UsageGroup.DAY, ACME)).total.tokens_out == 7


async def test_the_end_of_a_span_is_left_out(rows: UsageRows) -> None:
    for since, tokens_out in ((DAY, 3), (DAY + timedelta(microseconds=1), 12)):
        found = await rows.summary(UsageGroup.DAY, since=since, until=since + timedelta(days=2))
        assert found.total.tokens_out == tokens_out


async def test_all_time_is_a_span_like_any_other(rows: UsageRows) -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime(9999, 12, 31, 12, 30, tzinfo=UTC)

    assert (await rows.summary(UsageGroup.MODEL, since=first, until=last)).total.requests == 4


async def test_no_usage_is_a_total_of_nothing(rows: UsageRows) -> None:
    nothing = await report(rows, UsageGroup.MODEL, NOBODY)

    assert (nothing.lines, nothing.total.requests, nothing.total.tokens_out) == ((), 0, 0)
