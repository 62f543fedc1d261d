"""The ledger in Postgres: one row per admitted request, written in batches, summed for operators."""

from collections.abc import Collection, Iterable, Sequence
from datetime import date, datetime
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from db.usage_report import read_report, read_spent, read_sums
from domain.usage import UsageOutcome, UsageRecord
from domain.usage_report import UsageGroup, UsageReport, UsageSums
from domain.usage_rows import UsageFilter
from domain.values import KeyId, RequestId, TenantId

_COLUMNS: Final = """
    period date, request_id uuid, tenant_id uuid, key_id uuid, model text, model_digest text, api_family text,
    route text, backend text, attempts smallint, attempted_backends text[], outcome usage_outcome,
    tokens_in bigint, tokens_out bigint, tokens_cached bigint, estimated boolean,
    queue_us bigint, load_us bigint, prompt_us bigint, eval_us bigint, first_token_us bigint, total_us bigint,
    started_at timestamptz, ended_at timestamptz, client_request_id text
"""
_NAMES: Final = tuple(column.split()[0] for column in _COLUMNS.split(","))
_KEY_NAMES: Final = ("period", "request_id")
_DATA_EXCEPTION: Final = "22"
_CONSTRAINT_VIOLATION: Final = "23"

# One parameter for the whole batch: the driver encodes one text instead of thousands of values, and
# attempted_backends keeps its own length per row. The WHERE is what makes a repeated batch harmless.
_INSERT: Final = text(f"""
    INSERT INTO usage_records ({", ".join(_NAMES)})
    SELECT {", ".join(_NAMES)} FROM json_to_recordset(CAST(CAST(:rows AS text) AS json)) AS r ({_COLUMNS})
    ON CONFLICT (period, request_id) DO UPDATE
    SET {", ".join(f"{name} = excluded.{name}" for name in _NAMES if name not in _KEY_NAMES)}
    WHERE usage_records.outcome = 'lost' AND excluded.outcome <> 'lost'
""")  # noqa: S608 - column names from this module  # nosec B608
_MAKE_MONTHS: Final = text("SELECT make_usage_partition(month) FROM unnest(CAST(:months AS date[])) AS month")


class UsageRows:
    """The table `usage_records`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def insert_batch(self, records: Sequence[UsageRecord]) -> int:
        """Write a batch in one transaction and return how many rows it changed.

        Safe to repeat: a row that is there stays as it is, except that `lost` gives way to a settled ending,
        within the batch as well. Months without a partition get one.
        """
        if not records:
            return 0
        async with self._engine.begin() as connection:
            return await write_records(connection, records)

    async def make_months(self, months: Iterable[date]) -> None:
        """Make the partitions of these months where they are missing."""
        async with self._engine.begin() as connection:
            await connection.execute(_MAKE_MONTHS, {"months": list(months)})

    async def summary(
        self,
        group_by: UsageGroup,
        *,
        since: datetime,
        until: datetime,
        tenant_id: TenantId | None = None,
        time_zone: str = "UTC",
    ) -> UsageReport:
        """Return the sums over requests admitted from `since` up to, not including, `until`.

        Parameters
        ----------
        group_by
            What one line stands for.
        tenant_id
            Whose requests; None means everybody's, which is for operators.
        time_zone
            Whose days and months, as an IANA name.
        """
        return await read_report(
            self._engine, group_by, since=since, until=until, tenant_id=tenant_id, time_zone=time_zone
        )

    async def sums(
        self,
        by: Sequence[UsageGroup],
        wanted: UsageFilter,
        *,
        time_zone: str = "UTC",
        at_most: int | None = None,
    ) -> UsageSums:
        """Return the sums over the requests that a filter names, by any of the groups, as `read_sums` does.

        Raises
        ------
        TooManySums
            There are more lines than `at_most`.
        """
        return await read_sums(self._engine, by, wanted, time_zone=time_zone, at_most=at_most)

    async def spent(
        self, tenant_id: TenantId, *, since: Collection[datetime], without: Collection[RequestId] = ()
    ) -> dict[datetime, dict[KeyId, int]]:
        """Return the tokens, in and out, of a tenant's requests admitted since each of some moments, by key.

        What the whole tenant spent is the sum. Keys that spent nothing are left out; lost requests count with
        the tokens that were found. All answers are of one snapshot.

        Parameters
        ----------
        since
            When days or months of a quota began: not longer ago than 62 days.
        without
            Requests that do not count, whether they are in the ledger or not.
        """
        return await read_spent(self._engine, tenant_id, since=since, without=without)


async def write_records(connection: AsyncConnection, records: Sequence[UsageRecord]) -> int:
    """Write at least one record within the connection's transaction, as `insert_batch` does."""
    settled = _one_ending_each(records)
    rows = msgspec.json.encode([_row(record) for record in settled]).decode()
    months = sorted({record.admission.period for record in settled})
    await connection.execute(_MAKE_MONTHS, {"months": months})
    return int((await connection.execute(_INSERT, {"rows": rows})).rowcount)


def blames_a_value(exc: DBAPIError) -> bool:
    """Whether the database refused what a record says, which no repetition will change."""
    state = getattr(exc.orig, "sqlstate", None) or ""
    return state[:2] in {_DATA_EXCEPTION, _CONSTRAINT_VIOLATION}


def _one_ending_each(records: Iterable[UsageRecord]) -> list[UsageRecord]:
    """Keep one record per request: the first settled one, or the first if all are lost."""
    kept: dict[tuple[date, Any], UsageRecord] = {}
    for record in records:
        key = (record.admission.period, record.admission.request_id)
        known = kept.get(key)
        if known is None or known.settlement.outcome is UsageOutcome.LOST is not record.settlement.outcome:
            kept[key] = record
    return list(kept.values())


def _row(record: UsageRecord) -> dict[str, Any]:
    admission, settlement = record.admission, record.settlement
    durations = settlement.durations
    return {
        "period": admission.period,
        "request_id": admission.request_id,
        "tenant_id": admission.tenant_id,
        "key_id": admission.key_id,
        "model": admission.model,
        "model_digest": settlement.model_digest or admission.model_digest,
        "api_family": admission.api_family,
        "route": admission.route,
        "backend": settlement.backend,
        "attempts": len(settlement.attempted_backends),
        "attempted_backends": settlement.attempted_backends,
        "outcome": settlement.outcome,
        "tokens_in": settlement.tokens_in,
        "tokens_out": settlement.tokens_out,
        "tokens_cached": settlement.tokens_cached,
        "estimated": settlement.estimated,
        "queue_us": durations.queue_us,
        "load_us": durations.load_us,
        "prompt_us": durations.prompt_us,
        "eval_us": durations.eval_us,
        "first_token_us": durations.first_token_us,
        "total_us": durations.total_us,
        "started_at": admission.started_at,
        "ended_at": settlement.ended_at,
        "client_request_id": admission.client_request_id,
    }
