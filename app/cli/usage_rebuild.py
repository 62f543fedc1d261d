"""`usage rebuild`: the sums by hour and day, made anew from the rows of the ledger."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from app.cli.failure import InputRefused
from app.cli.moments import moment_meant
from app.cli.options import LOCAL, Local
from app.cli.output import count_of, progress, say, show_json
from app.cli.place import environment, load, open_database

if TYPE_CHECKING:
    from db.usage_roll_ups import UsageRollUps


async def rebuild(*, since: str, until: str | None = None, common: Local = LOCAL) -> None:
    """Make the sums of a span anew from its rows, hour by hour.

    The gateway does this by itself for every hour whose rows change. This is for sums that cannot be trusted: changed
    by hand, or restored apart from their rows. Sums of hours without rows go. Reports are right all the while, only
    slower. Interrupting it loses nothing: the worker's hourly job makes what is left.

    Example: `neuronetz-gateway usage rebuild --since 2026-11-01 --until 2026-11-30`

    Parameters
    ----------
    since
        First day or moment: 2026-11-01, 2026-11-01T12:00 (UTC unless it says otherwise), or 7d, 24h, 30m ago.
        Its hour counts whole.
    until
        Last day, which counts whole, or the moment before which hours begin. Default: now.
    """
    from db.settings import DatabaseSettings
    from db.usage_roll_ups import UsageRollUps

    now = datetime.now(UTC)
    start = moment_meant(since, now=now).replace(minute=0, second=0, microsecond=0)
    end = now if until is None else moment_meant(until, now=now, whole_day=True)
    if start >= end:
        raise InputRefused("The time to rebuild is empty: --since must be before --until.")
    settings = load(DatabaseSettings, environment(common))
    async with open_database(settings) as database:
        roll_ups = UsageRollUps(database.engine)
        kept = await roll_ups.pruned(start, end)
        hours = await _make_anew(roll_ups, start, end)
    if common.json:
        show_json({"since": start, "until": end, "hours": hours, "months_kept": kept})
        return
    if hours:
        print(f"The sums of {count_of(hours, 'hour')} are made anew from their rows.")
    else:
        print("There is nothing to make anew: no row and no sum is of that time.")
    if kept:
        say(_of_dropped_months(kept))


async def _make_anew(roll_ups: "UsageRollUps", since: datetime, until: datetime) -> int:
    """Make the sums of every hour of the span anew and return how many there are."""
    with progress("looking for the hours") as show:
        marked = await roll_ups.mark(since, until)
        # The worker's job may make some of them first: then they are as new.
        hours = [hour for hour in await roll_ups.touched() if since <= hour < until]
        for done, hour in enumerate(hours):
            show(f"making the sums of {hour:%Y-%m-%d %H:%M}, {done:,} of {len(hours):,} hours done")
            await roll_ups.roll_up(hour)
    return marked


def _of_dropped_months(months: Sequence[date]) -> str:
    named = ", ".join(f"{month:%Y-%m}" for month in months)
    return f"Left as they are, because the rows were dropped by retention: the sums of {named}."
