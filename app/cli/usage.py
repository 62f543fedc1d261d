"""`usage`: what was used, summed from the ledger."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import Parameter

from app.cli.chart import Bar, show_chart
from app.cli.control import control_plane
from app.cli.failure import InputRefused
from app.cli.moments import moment_meant
from app.cli.options import COMMON, Common
from app.cli.output import NOTHING, Table, progress, say, show_json, show_table
from app.cli.people import find_tenant
from app.cli.usage_export import export as write_rows
from domain.usage_report import UsageGroup

if TYPE_CHECKING:
    from domain.usage_report import UsageReport, UsageSum

DEFAULT_DAYS = 30

Measure = Literal["tokens", "requests", "time"]

_TITLES: Final[dict[Measure, str]] = {"tokens": "Tokens", "requests": "Requests", "time": "Backend time"}
_HEADINGS = ("requests", "tokens in", "tokens out", "cached", "estimated", "backend time")


async def usage(
    *,
    by: UsageGroup | None = None,
    since: str | None = None,
    until: str | None = None,
    tenant: str | None = None,
    chart: Measure | None = None,
    export: Annotated[Path | None, Parameter(allow_leading_hyphen=True)] = None,
    resume: bool = False,
    cursor: str | None = None,
    common: Common = COMMON,
) -> None:
    """Sum up requests and tokens.

    A request counts from its admission; its record is there a second or two after its end. `estimated` are
    requests whose tokens nobody measured, `backend time` is loading, reading prompts and generating.

    Example: `neuronetz-gateway usage --by model --since 7d --tenant research`

    Example: `neuronetz-gateway usage --export november.csv --since 2026-11-01 --until 2026-11-30`

    Parameters
    ----------
    by
        What one line stands for. Days are UTC. Default: tenant.
    since
        First day or moment: 2026-11-01, 2026-11-01T12:00 (UTC unless it says otherwise), or 7d, 24h, 30m ago.
        Default: 30 days ago.
    until
        Last day, which counts whole, or the moment before which requests count. Default: now.
    tenant
        Slug of the tenant whose requests count. Default: everybody's.
    chart
        Draw bars of tokens (in and out), requests or backend time instead of the table.
    export
        Write the single rows, oldest first, to this file instead: CSV if its name ends in .csv, else one JSON object
        a line; - stands for standard output. Without --since from the beginning of the ledger.
    resume
        Go on with a file that broke off, after its last whole row.
    cursor
        Go on after the row that has this cursor, as the last field of every row names it.
    """
    now = datetime.now(UTC)
    start = now - timedelta(days=DEFAULT_DAYS) if since is None else moment_meant(since, now=now)
    end = now if until is None else moment_meant(until, now=now, whole_day=True)
    if start >= end:
        raise InputRefused("The time asked for is empty: --since must be before --until.")
    if export is not None:
        if chart is not None:
            raise InputRefused("Give --chart or --export, not both.")
        if by is not None:
            raise InputRefused("--export writes single rows, which --by cannot sum up: give one of them.")
        if resume and cursor is not None:
            raise InputRefused("--resume goes on after the file's own last row: leave --cursor out.")
        first = None if since is None else start
        await write_rows(
            export, since=first, until=end, tenant=tenant, resume=resume, cursor=cursor, common=common
        )
        return
    if resume or cursor is not None:
        raise InputRefused("--resume and --cursor go with --export.")
    by = by or UsageGroup.TENANT
    async with control_plane(common) as control:
        owner = None if tenant is None else await find_tenant(control, tenant, common)
        with progress("summing up the ledger"):
            report = await control.usage.report(by, since=start, until=end, tenant=owner)
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
    if chart is not None:
        title = f"{_TITLES[chart]} by {by.value}, {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
        bars = bars_of(report, by, chart)
        if not bars:
            say(f"No requests from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC: nothing to draw.")
            return
        show_chart(title, bars)
        return
    say(f"Requests from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC:")
    show_table(table_of(report, by))


def table_of(report: "UsageReport", by: UsageGroup) -> Table:
    """Return a report as a table with its total below."""
    return Table(
        (by.value, *_HEADINGS),
        [(line.label or "(none)", *_cells(line)) for line in report.lines],
        numbers=frozenset(range(1, len(_HEADINGS) + 1)),
        total=("total", *_cells(report.total)),
    )


def bars_of(report: "UsageReport", by: UsageGroup, measure: Measure) -> list[Bar]:
    """Return a report as bars: days in their order, those in between without requests too; all else by its size."""
    bars = [_bar(line.label or "(none)", line, measure) for line in report.lines]
    if by is not UsageGroup.DAY or not bars:
        return sorted(bars, key=lambda bar: -bar.number)
    known = {bar.label: bar for bar in bars}
    first, last = (date.fromisoformat(bar.label) for bar in (bars[0], bars[-1]))
    days = (str(first + timedelta(days=each)) for each in range((last - first).days + 1))
    return [known.get(day) or Bar(day, 0, NOTHING) for day in days]


def _bar(label: str, line: "UsageSum", measure: Measure) -> Bar:
    if measure == "time":
        return Bar(label, line.busy_us, f"{line.busy_us / 1e6:,.1f} s")
    number = line.requests if measure == "requests" else line.tokens_in + line.tokens_out
    return Bar(label, number, f"{number:,}")


def _cells(line: "UsageSum") -> tuple[str, ...]:
    counts = (line.requests, line.tokens_in, line.tokens_out, line.tokens_cached, line.estimated_requests)
    return (*(f"{count:,}" for count in counts), f"{line.busy_us / 1e6:,.1f} s")
