"""What a tenant's keys spent since a period began, from which lost counters are made anew."""

from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.usage import UsageRows
from db.usage_roll_ups import UsageRollUps
from domain.usage import UsageRecord
from domain.values import KeyId, RequestId, TenantId
from tests.support.ledger_records import DAY, LOST, admission, settlement
from tests.support.rows import ACME, ONE, TWO

TENANT = TenantId(ACME)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def rows(engine: AsyncEngine) -> UsageRows:
    return UsageRows(engine)


def spending(after: timedelta, *, key: UUID = ONE, tenant: UUID = ACME, lost: bool = False) -> UsageRecord:
    """Build a record of 10 tokens in and 20 out (5 if it was lost), admitted some time after DAY."""
    ending = settlement(LOST, 5) if lost else settlement()
    return UsageRecord(admission(DAY + after, tenant=tenant, key=key), ending)


async def spent(rows: UsageRows, tenant_id: TenantId, *, since: datetime) -> dict[KeyId, int]:
    return (await rows.spent(tenant_id, since=[since]))[since]


async def test_tokens_in_and_out_are_summed_by_key(rows: UsageRows) -> None:
    await rows.insert_batch([spending(MINUTE), spending(MINUTE, lost=True), spending(MINUTE, key=TWO)])

    assert await spent(rows, TENANT, since=DAY) == {ONE: 45, TWO: 30}


async def test_who_spent_nothing_is_not_there(rows: UsageRows) -> None:
    await rows.insert_batch([spending(MINUTE, tenant=uuid4())])

    assert await spent(rows, TENANT, since=DAY) == {}


async def test_a_request_counts_in_the_period_of_its_admission(rows: UsageRows) -> None:
    half_past = DAY + timedelta(minutes=30)  # where some zones have their midnight
    await rows.insert_batch([spending(timedelta(minutes=minute)) for minute in (0, 29, 30, 31)])

    assert await spent(rows, TENANT, since=half_past) == {ONE: 60}
    assert await spent(rows, TENANT, since=half_past + MINUTE) == {ONE: 30}


@pytest.mark.parametrize("since", [timedelta(), timedelta(minutes=30)])
async def test_sums_that_were_made_change_nothing(
    rows: UsageRows, engine: AsyncEngine, since: timedelta
) -> None:
    await rows.insert_batch(
        [spending(timedelta(hours=hours, minutes=15)) for hours in (-1, 0, 1, 26, 24 * 20)]
    )
    before = await spent(rows, TENANT, since=DAY + since)
    roll_ups = UsageRollUps(engine)
    for hour in await roll_ups.touched():
        await roll_ups.roll_up(hour)
    await rows.insert_batch([spending(timedelta(hours=26, minutes=20))])

    assert await spent(rows, TENANT, since=DAY + since) == {ONE: before[KeyId(ONE)] + 30}


async def test_a_period_may_span_two_months_of_the_ledger(rows: UsageRows) -> None:
    await rows.insert_batch([spending(timedelta()), spending(timedelta(days=20))])

    assert await spent(rows, TENANT, since=DAY) == {ONE: 60}


async def test_requests_named_do_not_count_whether_they_are_there_or_not(
    rows: UsageRows, engine: AsyncEngine
) -> None:
    records = [spending(timedelta(hours=hours), key=key) for hours in (1, 2, 3) for key in (ONE, TWO)]
    await rows.insert_batch(records)
    for hour in await UsageRollUps(engine).touched():
        await UsageRollUps(engine).roll_up(hour)
    named = [records[0].admission.request_id, records[3].admission.request_id, RequestId(uuid4())]
    early, late = DAY, DAY + timedelta(hours=2, minutes=30)

    assert await rows.spent(TENANT, since=[early, late], without=named) == {
        early: {ONE: 60, TWO: 60},
        late: {ONE: 30, TWO: 30},
    }
