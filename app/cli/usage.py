"""`usage`: what was used, summed from the ledger."""

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from app.cli.failure import InputRefused
from app.cli.options import COMMON, Common
from app.cli.output import Table, progress, say, show_json, show_table
from app.cli.people import actor, find_tenant
from app.cli.place import environment, load, open_database
from domain.usage_report import UsageGroup

if TYPE_CHECKING:
    from domain.usage_report import UsageReport, UsageSum

DEFAULT_DAYS = 30

_AGO = re.compile(r"([1-9]\d{0,4})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_HEADINGS = ("requests", "tokens in", "tokens out", "cached", "estimated", "backend time")


async def usage(
    *,
    by: UsageGroup = UsageGroup.TENANT,
    since: str | None = None,
    until: str | None = None,
    tenant: str | None = None,
    common: Common = COMMON,
) -> None:
    """Sum up requests and tokens.

    A request counts from its admission; its record is there a second or two after its end. `estimated` are
    requests whose tokens nobody measured, `backend time` is loading, reading prompts and generating.

    Example: `neuronetz-gateway usage --by model --since 7d --tenant research`

    Parameters
    ----------
    by
        What one line stands for. Days are UTC.
    since
        First day or moment: 2026-11-01, 2026-11-01T12:00 (UTC unless it says otherwise), or 7d, 24h, 30m ago.
        Default: 30 days ago.
    until
        Last day, which counts whole, or the moment before which requests count. Default: now.
    tenant
        Slug of the tenant whose requests count. Default: everybody's.
    """
    from db.settings import DatabaseSettings
    from db.usage import UsageRows

    now = datetime.now(UTC)
    start = now - timedelta(days=DEFAULT_DAYS) if since is None else moment_meant(since, now=now)
    end = now if until is None else moment_meant(until, now=now, whole_day=True)
    if start >= end:
        raise InputRefused("The time asked for is empty: --since must be before --until.")
    settings = load(DatabaseSettings, environment(common))
    async with open_database(settings) as database:
        tenant_id = None
        if tenant is not None:
            async with database.unit_of_work(actor()) as work:
                tenant_id = (await find_tenant(work, tenant, common)).id
        with progress("summing up the ledger"):
            report = await UsageRows(database.engine).summary(by, since=start, until=end, tenant_id=tenant_id)
    if common.json:
        show_json(
            {
                "by": by,
                "since": start,
                "until": end,
                "tenant": tenant,
                "lines": report.lines,
                "total": report.total,
            }
        )
        return
    say(f"Requests from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC:")
    show_table(table_of(report, by))


def moment_meant(text: str, *, now: datetime, whole_day: bool = False) -> datetime:
    """Return the moment that `2026-11-01`, `2026-11-01T12:00` or `7d` stands for.

    `whole_day` makes a day stand for its end.

    Raises
    ------
    InputRefused
        It stands for none.
    """
    try:
        if ago := _AGO.fullmatch(text):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        meant = datetime.fromisoformat(text)
        if whole_day and _DAY.fullmatch(text):
            meant += timedelta(days=1)
        return meant.astimezone(UTC) if meant.tzinfo else meant.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InputRefused(
            f"{text!r} is no time; write 2026-11-01, 2026-11-01T12:00, or 7d, 24h, 30m for that long ago."
        ) from None


def table_of(report: "UsageReport", by: UsageGroup) -> Table:
    """Return a report as a table with its total below."""
    return Table(
        (by.value, *_HEADINGS),
        [(line.label or "(none)", *_cells(line)) for line in report.lines],
        numbers=frozenset(range(1, len(_HEADINGS) + 1)),
        total=("total", *_cells(report.total)),
    )


def _cells(line: "UsageSum") -> tuple[str, ...]:
    counts = (line.requests, line.tokens_in, line.tokens_out, line.tokens_cached, line.estimated_requests)
    return (*(f"{count:,}" for count in counts), f"{line.busy_us / 1e6:,.1f} s")
