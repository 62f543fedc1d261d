"""Rules: whether the counters of limits say what requests took. Pure: what was read is given.

Redis, the journals, the stream and Postgres cannot be read at one instant, so Redis is read first and the others in
the order in which records travel: what was settled before the reading of Redis is found in one of them. Of the
rest nobody can tell whether Redis counted it: requests that were admitted about the moment Redis was read, or about
the beginning of the period, by clocks that differ. So what is compared is not two numbers, but a number and the
least and the most that it may be.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from app.reconcile.findings import Gap
from db.redis.limit_counters import TENANT, HeldTokens, Scope
from domain.values import KeyId, Limits, RequestId

CLOCKS_DIFFER: Final = timedelta(seconds=2)
"""By how much the clocks of app processes and of Redis may differ."""


class Charge(msgspec.Struct, frozen=True):
    """What one request took, by its row or by a record that has none yet."""

    request_id: RequestId
    key_id: KeyId
    tokens: int
    started_at: datetime


class Window(msgspec.Struct, frozen=True):
    """Which requests a counter surely counts: those admitted from `first` to `last`; the others perhaps, or not."""

    perhaps_from: datetime
    first: datetime
    last: datetime
    perhaps_until: datetime

    @classmethod
    def of(cls, start: int, read_at: datetime) -> "Window":
        """Return the window of a period that began at a Unix time, as its counter stood at a moment."""
        began = datetime.fromtimestamp(start, UTC)
        return cls(
            began - CLOCKS_DIFFER, began + CLOCKS_DIFFER, read_at - CLOCKS_DIFFER, read_at + CLOCKS_DIFFER
        )

    def edges(self) -> tuple[tuple[datetime, datetime], ...]:
        """Return the spans of which it is not sure."""
        if self.last <= self.first:
            return ((self.perhaps_from, self.perhaps_until),)
        return (self.perhaps_from, self.first), (self.last, self.perhaps_until)

    def surely(self, moment: datetime) -> bool:
        """Whether a request admitted then is counted."""
        return self.first <= moment < self.last

    def perhaps(self, moment: datetime) -> bool:
        """Whether a request admitted then may be counted."""
        return self.perhaps_from <= moment < self.perhaps_until and not self.surely(moment)


class Taken(msgspec.Struct):
    """The tokens that a counter must hold, and those that it may hold beside them."""

    surely: int = 0
    perhaps: int = 0

    def gap(self, counted: int) -> Gap:
        """Return by how much a counter is off."""
        return Gap(counted - self.surely - self.perhaps, counted - self.surely)


def taken(
    window: Window,
    *,
    start: int,
    sums: Mapping[KeyId, int],
    summed: Iterable[Charge],
    single: Iterable[Charge],
    held: Iterable[HeldTokens],
) -> dict[Scope, Taken]:
    """Return what the tenant and each of its keys must have taken in a period, by everything but Redis's own sums.

    A request counts with what it reserved until that is settled, whatever its row says by then; once its process
    was found dead, with nothing.

    Parameters
    ----------
    start
        Of the period, as reservations name it.
    sums
        Tokens of all rows of requests that surely count, by key.
    summed
        Those of these rows whose requests still hold a reservation.
    single
        Everything else that is known, each request once: rows beside the certain part, records without a row.
    held
        All reservations.
    """
    found: dict[Scope, Taken] = {TENANT: Taken()}

    def add(key_id: KeyId, *, surely: int = 0, perhaps: int = 0) -> None:
        for scope in (TENANT, key_id):
            entry = found.setdefault(scope, Taken())
            entry.surely += surely
            entry.perhaps += perhaps

    reserved = {each.request_id for each in held}
    for key_id, tokens in sums.items():
        add(key_id, surely=tokens)
    for charge in summed:
        if charge.request_id in reserved and window.surely(charge.started_at):
            add(charge.key_id, surely=-charge.tokens)
    for charge in single:
        if charge.request_id in reserved:
            continue
        if window.surely(charge.started_at):
            add(charge.key_id, surely=charge.tokens)
        elif window.perhaps(charge.started_at):
            add(charge.key_id, perhaps=charge.tokens)
    for each in held:
        if not each.swept and start in {each.day, each.month}:
            add(each.key_id, surely=each.tokens)
    return found


def tracked(scope: Scope, tenant: Limits, keys: Mapping[KeyId, Limits]) -> bool:
    """Whether every request of a scope is counted: a request is if its tenant or its key has any limit."""
    return tenant.any_set() or (scope is not None and scope in keys and keys[scope].any_set())


def gaps(counted: Mapping[Scope, int], expected: Mapping[Scope, Taken]) -> dict[Scope, Gap]:
    """Return where a counter is certainly off."""
    found = {
        scope: expected.get(scope, Taken()).gap(counted.get(scope, 0)) for scope in {**counted, **expected}
    }
    return {scope: gap for scope, gap in found.items() if gap.is_certain}


def running_gaps(running: Mapping[Scope, int], held: Iterable[HeldTokens]) -> dict[Scope, Gap]:
    """Return where other requests are counted as running than hold a reservation. Both are of one instant."""
    there: dict[Scope, int] = {}
    for each in held:
        if not each.swept:
            for scope in (TENANT, each.key_id):
                there[scope] = there.get(scope, 0) + 1
    found = {scope: running.get(scope, 0) - there.get(scope, 0) for scope in {**running, **there}}
    return {scope: Gap(off, off) for scope, off in found.items() if off}
