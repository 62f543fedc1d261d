"""Rules: what is wrong with one tenant's counters and reservations. Pure: what was read is given."""

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from app.reconcile.counters import gaps, running_gaps, tracked
from app.reconcile.findings import Finding, FindingKind, Gap, Reservations, Tenant
from app.reconcile.seen import TenantSeen
from db.redis.limit_counters import HeldTokens, Scope
from domain.limits import LimitKind
from domain.values import RequestId

GIVEN_BACK: Final = timedelta(seconds=15)
"""What a dead process held is free after this long, and what a request held after its end much sooner."""
RECORDED: Final = timedelta(seconds=60)
"""A journal is adopted within seconds, and its records are in the ledger soon after."""

_PERIODS: Final = {LimitKind.TOKENS_PER_DAY: "day", LimitKind.TOKENS_PER_MONTH: "month"}


def in_counters(seen: TenantSeen) -> Iterator[Finding]:
    """Yield which sums and which numbers of running requests are off."""
    limited, counters = seen.limited, seen.counters
    if not counters.complete:
        # Nothing is granted by these: the next request has all of them counted anew.
        return
    for period in seen.periods:
        for scope, gap in gaps(period.counted, period.expected).items():
            if tracked(scope, limited.limits, limited.key_limits):
                counted = period.counted.get(scope, 0)
                yield _off(
                    FindingKind.TOKENS_DIFFER,
                    f"{_name(seen, scope)}, {_PERIODS[period.kind]}",
                    gap,
                    counted,
                    seen,
                )
    for scope, gap in running_gaps(counters.running, counters.held).items():
        counted = counters.running.get(scope, 0)
        yield _off(FindingKind.RUNNING_DIFFERS, _name(seen, scope), gap, counted, seen)


def in_reservations(
    seen: TenantSeen, *, live: Collection[str], known: Collection[RequestId]
) -> Iterator[Finding]:
    """Yield which reservations should be gone.

    Parameters
    ----------
    live
        App processes that Redis heard of lately.
    known
        Requests of which a journal or the stream knows.
    """
    now = datetime.fromtimestamp(seen.counters.now, UTC)
    ended = [each for each in seen.counters.held if _has_ended(each, seen, now)]
    yield from _about(FindingKind.RESERVED_AFTER_END, seen, ended)
    gone = [
        each
        for each in seen.counters.held
        if each not in ended and each.process not in live and _age(each, now) >= GIVEN_BACK
    ]
    yield from _about(FindingKind.RESERVED_BY_DEAD, seen, [each for each in gone if not each.swept])
    unrecorded = [
        each
        for each in gone
        if each.swept
        and each.request_id not in seen.rows
        and each.request_id not in known
        and _age(each, now) >= RECORDED
    ]
    yield from _about(FindingKind.REQUEST_UNRECORDED, seen, unrecorded)


def _has_ended(held: HeldTokens, seen: TenantSeen, now: datetime) -> bool:
    row = seen.rows.get(held.request_id)
    return row is not None and now - row.ended_at >= GIVEN_BACK


def _age(held: HeldTokens, now: datetime) -> timedelta:
    return now - datetime.fromtimestamp(held.at, UTC)


def _about(kind: FindingKind, seen: TenantSeen, held: Iterable[HeldTokens]) -> Iterator[Finding]:
    found = list(held)
    if not found:
        return
    tokens = sum(each.tokens for each in found)
    noun = "reservation" if len(found) == 1 else "reservations"
    processes = ", ".join(sorted({each.process for each in found}))
    charged = {
        each.request_id: seen.rows[each.request_id].tokens for each in found if each.request_id in seen.rows
    }
    yield Finding(
        kind,
        f"tenant {seen.limited.tenant.slug}",
        f"{len(found):,} {noun} of {tokens:,} tokens, process {processes}",
        {"reservations": len(found), "tokens": tokens, "processes": processes},
        tuple(each.request_id for each in found),
        Reservations(seen.limited.tenant.id, charged),
    )


def _off(kind: FindingKind, where: str, gap: Gap, counted: int, seen: TenantSeen) -> Finding:
    figures: dict[str, int | str] = {"counted": counted, "least": gap.least, "most": gap.most}
    return Finding(kind, where, str(gap), figures, matter=Tenant(seen.limited.tenant.id), gap=gap)


def _name(seen: TenantSeen, scope: Scope) -> str:
    tenant = f"tenant {seen.limited.tenant.slug}"
    return tenant if scope is None else f"{tenant}, key {seen.limited.prefixes.get(scope, str(scope))}"
