"""Reading single rows of the ledger, page by page: nothing is held between two pages, however long the reader takes."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from db.usage_report import snapshot
from domain.usage_rows import RowPlace, UsageFilter, UsageRow
from domain.usage_spans import first_of_month

_COLUMNS: Final = """
    u.period, u.request_id, COALESCE(t.slug, u.tenant_id::text) AS tenant, u.tenant_id,
    COALESCE(k.prefix, u.key_id::text) AS key, u.key_id, u.model, u.model_digest, u.api_family, u.route, u.backend,
    u.attempted_backends, u.outcome::text AS outcome, u.tokens_in, u.tokens_out, u.tokens_cached, u.estimated,
    u.queue_us, u.load_us, u.prompt_us, u.eval_us, u.first_token_us, u.total_us, u.started_at, u.ended_at,
    u.client_request_id
"""
_FILTERS: Final = {
    "tenant_id": "u.tenant_id = CAST(:tenant_id AS uuid)",
    "key_id": "u.key_id = CAST(:key_id AS uuid)",
    "model": "u.model = CAST(:model AS text)",
    "backend": "COALESCE(u.backend, '') = CAST(:backend AS text)",
    "outcome": "u.outcome = CAST(:outcome AS usage_outcome)",
}


class LedgerRows:
    """The rows of `usage_records`, one statement per page.

    Rows that are written late (a process died, and its journal was adopted) take their place by the age of their
    request, so a reader that is past it does not see them.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def page(
        self, wanted: UsageFilter, *, after: RowPlace | None, limit: int, newest_first: bool = False
    ) -> Sequence[UsageRow]:
        """Return the next rows, in the order of the age of their requests' ids.

        Parameters
        ----------
        wanted
            Which rows.
        after
            The row to go on after, in the direction of reading; None begins at the end where reading begins.
        limit
            How many at most.
        newest_first
            The direction.
        """
        filters = {name: value for name in _FILTERS if (value := getattr(wanted, name)) is not None}
        values: dict[str, Any] = {
            "since": wanted.since,
            "until": wanted.until,
            "first_period": first_of_month(wanted.since),
            "last_period": first_of_month(wanted.until),
        } | filters
        if after is not None:
            values |= {"period": after.period, "request_id": after.request_id}
            values["last_period" if newest_first else "first_period"] = after.period
        statement = _page(filters, begins=after is None, limit=limit, newest_first=newest_first)
        async with snapshot(self._engine) as connection:
            found = (await connection.execute(statement, values)).all()
        return [_row(row) for row in found]


def _page(
    filters: Sequence[str] | dict[str, Any], *, begins: bool, limit: int, newest_first: bool
) -> TextClause:
    """Return the statement of a page. Its limit is part of it: the planner then takes the index that has the order."""
    order = "DESC" if newest_first else "ASC"
    conditions = [_FILTERS[name] for name in filters]
    if not begins:
        beyond = "<" if newest_first else ">"
        conditions.append(
            f"(u.period, u.request_id) {beyond} (CAST(:period AS date), CAST(:request_id AS uuid))"
        )
    return text(f"""
        SELECT {_COLUMNS}
        FROM (
            SELECT * FROM usage_records AS u
            WHERE u.period >= CAST(:first_period AS date) AND u.period <= CAST(:last_period AS date)
              AND u.started_at >= :since AND u.started_at < :until {"".join(f" AND {each}" for each in conditions)}
            ORDER BY u.period {order}, u.request_id {order} LIMIT {limit:d}
        ) AS u
        LEFT JOIN tenants AS t ON t.id = u.tenant_id
        LEFT JOIN api_keys AS k ON k.id = u.key_id
        ORDER BY u.period {order}, u.request_id {order}
    """)  # noqa: S608 - fragments of our own  # nosec B608


def _row(row: Row[Any]) -> UsageRow:
    values = row._asdict()
    return UsageRow(**values | {"attempted_backends": tuple(row.attempted_backends)})
