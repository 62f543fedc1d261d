"""`usage reconcile`: whether everything that knows of usage says the same, and closing what does not."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from app.cli.failure import FAILED, InputRefused
from app.cli.moments import moment_meant
from app.cli.options import LOCAL, Local
from app.cli.output import Table, count_of, progress, say, show_json, show_table
from app.cli.people import actor
from app.cli.place import environment, load, open_database, reason, redis_troubles

if TYPE_CHECKING:
    from app.cli.settings import ReconcileSettings
    from app.reconcile.findings import Finding
    from app.reconcile.repair import Repairs
    from app.reconcile.seen import Stores
    from app.reconcile.survey import Coverage, Survey

_DEFAULT_SINCE: Final = "2d"
_SCRIPT_TIMEOUT_S: Final = 10.0


async def reconcile(*, since: str = _DEFAULT_SINCE, repair: bool = False, common: Local = LOCAL) -> int:
    """Compare journals, stream, rows, sums and the counters of limits, and report what differs.

    It changes nothing without --repair, may run beside a busy gateway, and reports only what it finds twice, a few
    seconds apart. Journals are read on this machine: run it on each one that has any, as the gateway's user. It exits
    with 0 if nothing differs (any more), else with 1. docs/accounting.md says what each finding means.

    Example: `neuronetz-gateway usage reconcile --since 7d --repair`

    Parameters
    ----------
    since
        From when rows are compared with their sums: 2026-11-01, 2026-11-01T12:00 (UTC unless it says otherwise), or
        7d, 24h, 30m ago. Everything else is compared as it is now.
    repair
        Close what can be closed safely; to do so again changes nothing. What it writes into the ledger is in the
        audit log.
    """
    from app.cli.settings import ReconcileSettings
    from app.settings import with_journal_dir

    now = datetime.now(UTC)
    start = moment_meant(since, now=now)
    if start >= now:
        raise InputRefused("--since must be a time in the past.")
    settings = load(ReconcileSettings, with_journal_dir(environment(common)))
    async with _stores(settings) as (stores, repairs):
        with progress("comparing"):
            found = await _survey(stores, start)
        done: list[str | None] = []
        left = found
        if repair and found.findings:
            with progress("repairing"):
                done = [await repairs.close(finding) for finding in found.findings]
                left = await _survey(stores, start)
    if common.json:
        show_json(
            {
                "compared": found.coverage,
                "findings": [
                    _plain(finding) | ({"done": done[at]} if done else {})
                    for at, finding in enumerate(found.findings)
                ],
                "left": [_plain(finding) for finding in left.findings] if done else None,
            }
        )
    else:
        _say_compared(found.coverage)
        _show(found, left, done)
    return FAILED if left.findings else 0


@asynccontextmanager
async def _stores(settings: "ReconcileSettings") -> "AsyncIterator[tuple[Stores, Repairs]]":
    from app.reconcile.repair import Repairs
    from app.reconcile.seen import Stores
    from db.redis.connection import connect_patient
    from db.redis.multiplex import MultiplexedRedis

    scripts = MultiplexedRedis(settings.redis_url, timeout_s=_SCRIPT_TIMEOUT_S)
    try:
        async with open_database(settings) as database, connect_patient(settings.redis_url) as redis:
            with redis_troubles(settings.redis_url):
                stores = Stores(database, redis, settings.journal_dir, actor())
                yield stores, Repairs(stores, scripts)
    finally:
        await scripts.aclose()


async def _survey(stores: "Stores", since: datetime) -> "Survey":
    from app.reconcile.seen import JournalsUnreadable
    from app.reconcile.survey import survey

    try:
        return await survey(stores, since=since, pause=asyncio.sleep)
    except JournalsUnreadable as unreadable:
        raise InputRefused(
            f"The journals in {stores.directory} cannot be read: {reason(unreadable.trouble)}."
            " Run this as the gateway's user, or set GATEWAY_JOURNAL_DIR."
        ) from None


def _say_compared(coverage: "Coverage") -> None:
    journals = count_of(coverage.journals_held + coverage.journals_left, "journal")
    say(
        f"Compared: {journals} in {coverage.directory}, the stream, rows and sums since"
        f" {coverage.since:%Y-%m-%d %H:%M} UTC, the counters of {count_of(coverage.tenants, 'tenant')} with limits."
    )
    if coverage.processes > coverage.journals_held:
        elsewhere = coverage.processes - coverage.journals_held
        say(
            f"App processes that keep their journal elsewhere: {elsewhere:,} of {coverage.processes:,}."
            " What they have not shipped yet is not seen."
        )


def _show(found: "Survey", left: "Survey", done: list[str | None]) -> None:
    if not found.findings:
        print("Nothing differs.")
        return
    show_table(
        Table(
            ("finding", "where", "how much"),
            [(finding.kind.value, finding.where, finding.how_much) for finding in found.findings],
        )
    )
    _explain(found.findings, repaired=bool(done))
    if not done:
        if any(finding.explanation.repair for finding in found.findings):
            print("\n`--repair` closes what it can.")
        return
    print()
    show_table(
        Table(
            ("finding", "where", "done"),
            [
                (finding.kind.value, finding.where, told or "nothing, see above")
                for finding, told in zip(found.findings, done, strict=True)
            ],
        )
    )
    if not left.findings:
        print("\nNothing differs any more.")
        return
    print("\nLeft:")
    show_table(
        Table(
            ("finding", "where", "how much"),
            [(finding.kind.value, finding.where, finding.how_much) for finding in left.findings],
        )
    )


def _explain(findings: "Iterable[Finding]", *, repaired: bool) -> None:
    for kind, explanation in {finding.kind: finding.explanation for finding in findings}.items():
        print(f"\n{kind.value}: {explanation.means}")
        if explanation.repair is not None and not repaired:
            print(f"  --repair {explanation.repair}.")
        print(f"  {explanation.advice}")


def _plain(finding: "Finding") -> dict[str, Any]:
    explanation = finding.explanation
    return {
        "kind": finding.kind,
        "where": finding.where,
        "how_much": finding.how_much,
        "figures": finding.figures,
        "requests": finding.requests,
        "means": explanation.means,
        "repair": explanation.repair,
        "advice": explanation.advice,
    }
