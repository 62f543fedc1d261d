"""Counting a tenant's limits anew: who tells what, and what becomes of it.

Redis may lose its memory at any time. Postgres knows what was accounted; of everything that is not there yet somebody
holds the record: the process a request runs in, or the journal it ended in. Each process declares its part, and the
parts and the ledger together are the whole: nothing is left out, and nothing counts twice, because every request has
an id.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from domain.limits import MINUTE_S, Held, LimitKind, LimitState, PeriodBounds, Spent
from domain.values import KeyId, RequestId

RATES: Final = frozenset({LimitKind.REQUESTS_PER_MINUTE, LimitKind.TOKENS_PER_MINUTE})


class Charge(msgspec.Struct, frozen=True):
    """A request that ended: the tokens it is charged, and the Unix second of its admission."""

    request_id: RequestId
    key_id: KeyId
    tokens: int
    at: int


class Level(msgspec.Struct, frozen=True):
    """How much of a limit is used up: of a minute's, requests or tokens that have not drained yet.

    `key_id` None stands for the tenant as a whole.
    """

    kind: LimitKind
    key_id: KeyId | None
    limit: int
    used: float


class Declaration(msgspec.Struct, frozen=True):
    """What one process knows of one tenant that the ledger may not know.

    `running` are the reservations of requests that run in it, `ended` those that ended, `levels` the rates as it
    saw them last.
    """

    running: tuple[Held, ...] = ()
    ended: tuple[Charge, ...] = ()
    levels: tuple[Level, ...] = ()


class Running(msgspec.Struct, frozen=True):
    """A reservation and the process that answers for it."""

    process: str
    held: Held


class Recount(msgspec.Struct, frozen=True):
    """A tenant's counters as they ought to be.

    `sums` are what is spent, by period. `ended` are requests that the sums contain: nobody may add them again.
    """

    sums: tuple[Spent, ...] = ()
    ended: frozenset[RequestId] = frozenset()
    running: tuple[Running, ...] = ()
    levels: tuple[Level, ...] = ()


def level_of(state: LimitState, *, key_id: KeyId, seen_s: float) -> Level | None:
    """Return what was used up of a limit that stood like this so many seconds ago; None if nobody knows.

    A bucket drains its whole limit in a minute, so the time until it is whole again tells how full it is. A quota stays
    spent until its period ends. What runs at once may have ended since.
    """
    used = 0.0
    if state.kind in RATES:
        used = state.limit * (state.reset_s - seen_s) / MINUTE_S
    elif state.kind is not LimitKind.CONCURRENCY and seen_s < state.reset_s:
        used = float(state.limit - state.remaining)
    return (
        Level(state.kind, None if state.scope == "tenant" else key_id, state.limit, used)
        if used > 0
        else None
    )


def charges(declarations: Iterable[Declaration]) -> tuple[Charge, ...]:
    """Return every request that ended, once."""
    found = {charge.request_id: charge for each in declarations for charge in each.ended}
    return tuple(found.values())


def declared(declarations: Iterable[Declaration]) -> frozenset[RequestId]:
    """Return the requests that are declared: should the ledger have them already, they must not count there."""
    return frozenset(
        request_id
        for each in declarations
        for request_id in (
            *(charge.request_id for charge in each.ended),
            *(held.ask.request_id for held in each.running),
        )
    )


def recount(
    declarations: Mapping[str, Declaration],
    *,
    ledger: Mapping[int, Mapping[KeyId, int]],
    day: PeriodBounds,
    month: PeriodBounds,
) -> Recount:
    """Put the declarations and the ledger together.

    Parameters
    ----------
    declarations
        By process.
    ledger
        Tokens by key since each beginning of a period, without the requests that were declared.
    day, month
        The periods now.
    """
    ended = charges(declarations.values())
    sums: list[Spent] = []
    for kind, period in ((LimitKind.TOKENS_PER_DAY, day), (LimitKind.TOKENS_PER_MONTH, month)):
        since_previous = _with(ended, period.previous, ledger[period.previous])
        since_current = _with(ended, period.current, ledger[period.current])
        # It may begin while all this is counted.
        since_next = _with(ended, period.next, ledger[period.next])
        for key_id, tokens in since_previous.items():
            now, later = since_current.get(key_id, 0), since_next.get(key_id, 0)
            sums.append(Spent(kind, period.previous, period.current, key_id, tokens - now))
            sums.append(Spent(kind, period.current, period.next, key_id, now - later))
            if later or key_id is None:
                sums.append(Spent(kind, period.next, period.end, key_id, later))
    settled = frozenset(charge.request_id for charge in ended)
    return Recount(
        sums=tuple(sums),
        ended=settled,
        running=tuple(
            Running(process, held)
            for process, each in declarations.items()
            for held in each.running
            if held.ask.request_id not in settled
        ),
        levels=_highest(
            level for each in declarations.values() for level in each.levels if level.kind in RATES
        ),
    )


def _with(ended: Iterable[Charge], start: int, spent: Mapping[KeyId, int]) -> dict[KeyId | None, int]:
    """Return the tokens since a moment by key, and under None those of the tenant."""
    # Copied item by item: the keys of a mapping are invariant, and None joins them below.
    found: dict[KeyId | None, int] = {key_id: tokens for key_id, tokens in spent.items()}  # noqa: C416
    for charge in ended:
        if charge.at >= start:
            found[charge.key_id] = found.get(charge.key_id, 0) + charge.tokens
    found[None] = sum(found.values())
    return found


def _highest(levels: Iterable[Level]) -> tuple[Level, ...]:
    """Return one level of each rate. All processes saw the same bucket; who saw it last knows best."""
    found: dict[tuple[LimitKind, KeyId | None], Level] = {}
    for level in levels:
        known = found.get((level.kind, level.key_id))
        if known is None or level.used > known.used:
            found[level.kind, level.key_id] = level
    return tuple(found.values())
