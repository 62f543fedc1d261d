"""Sums by any combination, of any filter and time zone, are those that Python makes of the same records."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.postgres import create_engine
from db.usage import UsageRows
from db.usage_roll_ups import UsageRollUps
from domain.usage import UsageOutcome, UsageRecord
from domain.usage_report import TIME_UNITS, TooManySums, UsageGroup
from domain.usage_rows import UsageFilter
from domain.usage_spans import DAY, HOUR
from domain.values import KeyId, TenantId
from tests.support.counts import count
from tests.support.ledger_records import COMPLETED, LOST, admission, settlement
from tests.support.rows import ACME, ONE
from tests.support.servers import Databases

MIDNIGHT = datetime(2031, 6, 30, tzinfo=UTC)
FILTERS: dict[str, Sequence[Any]] = {
    "tenant_id": [TenantId(ACME), TenantId(ONE)],
    "key_id": [KeyId(ACME)],
    "model": ["m:1", "m:none"],
    "backend": ["a", ""],
    "outcome": [COMPLETED],
}

offsets = st.integers(-3 * 24 * 60, 3 * 24 * 60).map(lambda minutes: timedelta(minutes=minutes))
records = st.builds(
    lambda after, tenant, model, outcome, backend: UsageRecord(
        admission(MIDNIGHT + after, tenant=tenant, key=tenant, model=model),
        settlement(outcome, tokens_out=abs(after) // timedelta(minutes=1), backend=backend),
    ),
    offsets,
    st.sampled_from([ACME, ONE]),
    st.sampled_from(["m:1", "m:2"]),
    st.sampled_from([COMPLETED, LOST, UsageOutcome.CUT]),
    st.sampled_from([None, "a", "b"]),
)
wanted_by = st.builds(
    lambda things, unit: (*things, *unit),
    st.lists(
        st.sampled_from([each for each in UsageGroup if each not in TIME_UNITS]), unique=True, max_size=3
    ),
    st.sampled_from([(), *((unit,) for unit in TIME_UNITS)]),
)


@pytest.fixture(scope="module")
async def engine(postgres: Databases, migrated_template: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(postgres.create(template=migrated_template), application_name="test")
    yield engine
    await engine.dispose()


@settings(max_examples=count(40, 2000), deadline=None)
@given(
    early=st.lists(records, min_size=1, max_size=12),
    late=st.lists(records, max_size=3),
    edges=st.tuples(offsets, offsets).map(sorted),
    by=wanted_by,
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns"]),
    chosen=st.lists(st.sampled_from([*FILTERS]), unique=True, max_size=2).flatmap(
        lambda names: st.fixed_dictionaries({name: st.sampled_from(FILTERS[name]) for name in names})
    ),
)
async def test_sums_are_those_of_the_records(
    *,
    engine: AsyncEngine,
    early: list[UsageRecord],
    late: list[UsageRecord],
    edges: list[timedelta],
    by: tuple[UsageGroup, ...],
    zone: str,
    chosen: dict[str, Any],
) -> None:
    async with engine.begin() as connection:
        for table in ("usage_records", "usage_hourly", "usage_daily", "usage_touched_hours"):
            await connection.execute(text(f"DELETE FROM {table}"))
    rows, roll_ups = UsageRows(engine), UsageRollUps(engine)
    wanted = UsageFilter(MIDNIGHT + edges[0], MIDNIGHT + edges[1], **chosen)
    await rows.insert_batch(early)
    for hour in await roll_ups.touched():
        await roll_ups.roll_up(hour)
    await rows.insert_batch(late)

    found = await rows.sums(by, wanted, time_zone=zone)

    matching = [record for record in (*early, *late) if _matches(record, wanted)]
    requests = Counter(_labels(record, by, zone) for record in matching)
    tokens: Counter[tuple[str, ...]] = Counter()
    for record in matching:
        tokens[_labels(record, by, zone)] += record.settlement.tokens_out
    assert {line.labels: (line.requests, line.tokens_out) for line in found.lines} == (
        {labels: (number, tokens[labels]) for labels, number in requests.items()} if by else {}
    )
    assert [line.labels for line in found.lines] == sorted(line.labels for line in found.lines)
    assert (found.total.requests, found.total.tokens_out) == (len(matching), tokens.total())
    assert found.total.estimated_requests == sum(record.settlement.estimated for record in matching)


def _matches(record: UsageRecord, wanted: UsageFilter) -> bool:
    admitted, settled = record.admission, record.settlement
    values = {
        "tenant_id": admitted.tenant_id,
        "key_id": admitted.key_id,
        "model": admitted.model,
        "backend": settled.backend or "",
        "outcome": settled.outcome,
    }
    return wanted.since <= admitted.started_at < wanted.until and all(
        getattr(wanted, name) in {None, value} for name, value in values.items()
    )


def _labels(record: UsageRecord, by: Sequence[UsageGroup], zone: str) -> tuple[str, ...]:
    at = record.admission.started_at
    local = at.astimezone(ZoneInfo(zone))
    labels = {
        UsageGroup.TENANT: str(record.admission.tenant_id),
        UsageGroup.KEY: str(record.admission.key_id),
        UsageGroup.MODEL: record.admission.model,
        UsageGroup.BACKEND: record.settlement.backend or "",
        UsageGroup.OUTCOME: record.settlement.outcome.value,
        UsageGroup.HOUR: f"{at:%Y-%m-%dT%H:00:00Z}",
        UsageGroup.DAY: f"{local:%Y-%m-%d}",
        UsageGroup.MONTH: f"{local:%Y-%m}",
    }
    return tuple(labels[group] for group in by)


async def test_more_lines_than_asked_for_are_refused(engine: AsyncEngine) -> None:
    rows = UsageRows(engine)
    at = MIDNIGHT + 30 * DAY
    await rows.insert_batch(
        [UsageRecord(admission(at, model=f"m:{number}"), settlement()) for number in range(3)]
    )
    wanted = UsageFilter(at, at + HOUR)

    assert len((await rows.sums((UsageGroup.MODEL,), wanted, at_most=3)).lines) == 3
    with pytest.raises(TooManySums):
        await rows.sums((UsageGroup.MODEL,), wanted, at_most=2)
    with pytest.raises(TooManySums):
        await rows.sums((UsageGroup.HOUR,), UsageFilter(MIDNIGHT, at), at_most=24)


async def test_all_time_by_hour_looks_only_where_the_ledger_has_something(engine: AsyncEngine) -> None:
    always = UsageFilter(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
    await UsageRows(engine).insert_batch([UsageRecord(admission(MIDNIGHT, key=UUID(int=7)), settlement())])

    found = await UsageRows(engine).sums((UsageGroup.HOUR,), always)

    assert found.total.requests == sum(line.requests for line in found.lines) >= 1
