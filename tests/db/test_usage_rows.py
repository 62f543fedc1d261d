"""Pages of the ledger: every row once, in order, in both directions, whatever the filter."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from db.postgres import create_engine
from db.usage import UsageRows
from db.usage_rows import LedgerRows
from domain.usage import UsageRecord
from domain.usage_rows import UsageFilter, UsageRow
from domain.usage_spans import DAY as A_DAY
from domain.values import KeyId, TenantId
from tests.support.ledger_records import DAY, LOST, admission, settlement
from tests.support.rows import ACME, ONE, TWO, add_acme
from tests.support.servers import Databases

EVERYTHING = UsageFilter(DAY - 40 * A_DAY, DAY + 40 * A_DAY)


@pytest.fixture(scope="module")
async def engine(postgres: Databases, migrated_template: str) -> AsyncIterator[AsyncEngine]:
    url = postgres.create(template=migrated_template)
    connection = await asyncpg.connect(url)
    await add_acme(connection)
    await connection.close()
    engine = create_engine(url, application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture(scope="module")
async def written(engine: AsyncEngine) -> list[UsageRecord]:
    """Seven requests in two months, in the order of their ids within each."""
    records = [
        UsageRecord(admission(DAY + hours * timedelta(hours=1)), settlement()) for hours in range(3)
    ] + [
        UsageRecord(admission(DAY + 3 * A_DAY, key=TWO), settlement(backend=None)),
        UsageRecord(admission(DAY + 3 * A_DAY, model="m:2"), settlement(LOST)),
        UsageRecord(admission(DAY + 3 * A_DAY, tenant=TWO), settlement(backend="b")),
        UsageRecord(admission(DAY + 4 * A_DAY), settlement()),
    ]
    await UsageRows(engine).insert_batch(records)
    return records


async def read(engine: AsyncEngine, wanted: UsageFilter, *, limit: int, newest_first: bool) -> list[UsageRow]:
    found: list[UsageRow] = []
    while page := await LedgerRows(engine).page(
        wanted, after=found[-1].place if found else None, limit=limit, newest_first=newest_first
    ):
        assert len(page) <= limit
        found += page
    return found


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
@pytest.mark.parametrize("newest_first", [False, True])
async def test_pages_hold_every_row_once_and_in_order(
    engine: AsyncEngine, written: list[UsageRecord], limit: int, *, newest_first: bool
) -> None:
    found = await read(engine, EVERYTHING, limit=limit, newest_first=newest_first)

    ids = [record.admission.request_id for record in written]
    assert [row.request_id for row in found] == (ids[::-1] if newest_first else ids)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"tenant_id": TenantId(TWO)}, [5]),
        ({"key_id": KeyId(TWO)}, [3]),
        ({"model": "m:2"}, [4]),
        ({"backend": "b"}, [5]),
        ({"backend": ""}, [3]),
        ({"outcome": LOST}, [4]),
        ({"tenant_id": TenantId(ACME), "model": "m:1", "backend": "a"}, [0, 1, 2, 6]),
        ({"since": DAY + timedelta(hours=1), "until": DAY + timedelta(hours=2)}, [1]),
    ],
)
async def test_filters_join_and_an_end_is_left_out(
    engine: AsyncEngine, written: list[UsageRecord], chosen: dict[str, Any], expected: list[int]
) -> None:
    span = {"since": EVERYTHING.since, "until": EVERYTHING.until}

    found = await read(engine, UsageFilter(**span | chosen), limit=2, newest_first=False)

    assert [row.request_id for row in found] == [written[place].admission.request_id for place in expected]


async def test_a_row_tells_what_was_recorded_and_by_which_names(
    engine: AsyncEngine, written: list[UsageRecord]
) -> None:
    rows = await read(engine, EVERYTHING, limit=10, newest_first=False)

    first, gone = rows[0], rows[5]
    record = written[0]
    assert (first.tenant, first.key[:4], first.tenant_id, first.key_id) == ("acme", "nng_", ACME, ONE)
    assert (gone.tenant, gone.tenant_id) == (str(TWO), TWO)
    assert (first.attempted_backends, first.backend, first.outcome) == (("b", "a"), "a", "completed")
    assert (first.tokens_in, first.tokens_out, first.tokens_cached, first.total_us) == (10, 20, None, 2**40)
    assert first.client_request_id == record.admission.client_request_id
    assert (first.started_at, first.ended_at) == (record.admission.started_at, record.settlement.ended_at)
