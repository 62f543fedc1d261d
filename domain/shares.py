"""What one process may use of something limited while the processes cannot ask each other.

The shares of all processes add up to the whole: what does not divide evenly goes to the first ones in the order of
their names, which every process knows.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from math import ceil, inf
from typing import Final

import msgspec

from domain.limits import MINUTE_S, Ask, Held, LimitKind, LimitState
from domain.recounts import RATES, Declaration
from domain.values import KeyId

SHARE_WAIT_S: Final = 1.0
"""When a running request ends nobody knows."""

Ledger = Mapping[tuple[LimitKind, KeyId | None], int]
"""Tokens by quota and key; None stands for the tenant as a whole."""


class Shares(msgspec.Struct, frozen=True):
    """The place of one process among the live ones: it is number `rank`, counted from 0, of `processes`."""

    processes: int = 1
    rank: int = 0

    @classmethod
    def of(cls, process: str, others: Collection[str]) -> "Shares":
        """Return the place of one process among others, which may or may not name it."""
        names = sorted({process, *others})
        return cls(len(names), names.index(process))

    def share(self, limit: int) -> int:
        """Return this process's part of a limit; 0 if there is less than one for each and others come first."""
        each, rest = divmod(max(limit, 0), self.processes)
        return each + (self.rank < rest)


class Meter:
    """What one process has used of its share of a rate. It drains the whole share evenly in a minute."""

    __slots__ = ("_at", "_used", "share")

    def __init__(self, share: int, *, used: float, now: float) -> None:
        self.share = share
        self._used = used
        self._at = now

    def used(self, now: float) -> float:
        """Return what has not drained yet."""
        return max(0.0, self._used - self.share * (now - self._at) / MINUTE_S)

    def add(self, amount: int, now: float) -> None:
        """Use so much more."""
        self._used, self._at = self.used(now) + amount, now

    def give_back(self, amount: int) -> None:
        """Take so much back of what was used; negative if it was not enough."""
        self._used = max(0.0, self._used - amount)

    def wait_s(self, amount: int, now: float) -> float:
        """Return after how many seconds there is room for so much; 0 if there is now, infinity if never."""
        if amount > self.share:
            return inf
        over = self.used(now) + amount - self.share
        return over / self.share * MINUTE_S if over > 0 else 0.0


class Standing(msgspec.Struct, frozen=True):
    """How a limit stands, seen by one process.

    `wait_s` is after how long it would admit, infinity if only the others' parts would do; `is_spent` says that the
    whole limit has no room either.
    """

    state: LimitState
    wait_s: float
    is_spent: bool = False


class ShareBook:
    """What one process does with its shares of one tenant's limits while nobody else can be asked.

    It begins with what the process knew when the others went out of reach, and is thrown away when they are back.

    Parameters
    ----------
    shares
        The place of this process.
    known
        What it holds of the tenant: requests that run, those that ended and may not be accounted, and the rates as
        they stood for everybody, of which its part is taken.
    day, month
        Start and end of the periods that the book is for.
    """

    def __init__(
        self,
        shares: Shares,
        known: Declaration,
        *,
        day: tuple[int, int],
        month: tuple[int, int],
        now: float,
    ) -> None:
        self.day = day
        self.month = month
        self._shares = shares
        self._meters: dict[tuple[LimitKind, KeyId | None], Meter] = {}
        self._levels = {(level.kind, level.key_id): level.used for level in known.levels}
        self.began = now
        self._running: Counter[KeyId | None] = Counter()
        self._own: Counter[tuple[LimitKind, KeyId | None]] = Counter()
        self._known: Counter[tuple[LimitKind, KeyId | None]] = Counter()
        for held in known.running:
            self._running.update((None, held.ask.key_id))
            self._spend(held.ask.key_id, held.ask.tokens, held.at)
        for charge in known.ended:
            self._spend(charge.key_id, charge.tokens, charge.at)
        self._known.update(self._own)

    def standing(
        self,
        kind: LimitKind,
        ask: Ask,
        key_id: KeyId | None,
        limit: int,
        *,
        ledger: Ledger,
        at: int,
        now: float,
    ) -> Standing:
        """Return how one limit of the tenant (`key_id` None) or of the key stands for an ask.

        Parameters
        ----------
        ledger
            What the ledger has spent, by quota and key.
        at, now
            The Unix second and the monotonic time.
        """
        scope = "tenant" if key_id is None else "key"
        if kind in RATES:
            amount = 1 if kind is LimitKind.REQUESTS_PER_MINUTE else ask.tokens
            meter = self._meter(kind, key_id, limit, now)
            wait_s = meter.wait_s(amount, now)
            used = meter.used(now) + (0 if wait_s else amount)
            reset_s = used / meter.share * MINUTE_S if meter.share else float(MINUTE_S)
            return Standing(LimitState(kind, scope, limit, max(0, int(meter.share - used)), reset_s), wait_s)
        if kind is LimitKind.CONCURRENCY:
            left = self._shares.share(limit) - self._running[key_id] - 1
            wait_s = 0.0 if left >= 0 else SHARE_WAIT_S
            return Standing(LimitState(kind, scope, limit, max(0, left), wait_s), wait_s)
        spent, own = ledger.get((kind, key_id), 0), self._own[kind, key_id]
        ends_s = max(1, (self.day if kind is LimitKind.TOKENS_PER_DAY else self.month)[1] - at)
        left = self._shares.share(limit - spent) - own
        if (seen := self._levels.get((kind, key_id))) is not None:
            # What Redis said last knows of the others, and of all that this process held then.
            left = min(left, self._shares.share(limit - ceil(seen)) - (own - self._known[kind, key_id]))
        admits = ask.tokens <= left
        is_spent = spent + own + ask.tokens > limit
        wait_s = 0.0 if admits else float(ends_s) if is_spent else inf
        remaining = max(0, left - (ask.tokens if admits else 0))
        return Standing(LimitState(kind, scope, limit, remaining, ends_s), wait_s, is_spent)

    def take(self, ask: Ask, *, at: int, now: float) -> None:
        """Note that an ask was let in."""
        for key_id, limits in ((None, ask.tenant_limits), (ask.key_id, ask.key_limits)):
            if (rpm := limits.requests_per_minute) is not None:
                self._meter(LimitKind.REQUESTS_PER_MINUTE, key_id, rpm, now).add(1, now)
            if (tpm := limits.tokens_per_minute) is not None:
                self._meter(LimitKind.TOKENS_PER_MINUTE, key_id, tpm, now).add(ask.tokens, now)
        self._running.update((None, ask.key_id))
        self._spend(ask.key_id, ask.tokens, at)

    def settle(self, held: Held, tokens: int) -> None:
        """Note that a request ended, and what it came to."""
        self._running.subtract((None, held.ask.key_id))
        self._spend(held.ask.key_id, tokens - held.ask.tokens, held.at)
        for key_id in (None, held.ask.key_id):
            meter = self._meters.get((LimitKind.TOKENS_PER_MINUTE, key_id))
            if meter is not None:
                meter.give_back(held.ask.tokens - tokens)

    def _meter(self, kind: LimitKind, key_id: KeyId | None, limit: int, now: float) -> Meter:
        share = self._shares.share(limit)
        meter = self._meters.get((kind, key_id))
        if meter is None:
            used = self._levels.get((kind, key_id), 0.0) / self._shares.processes
            meter = self._meters[kind, key_id] = Meter(share, used=used, now=self.began)
        elif meter.share != share:
            # Somebody changed the limit.
            meter = self._meters[kind, key_id] = Meter(share, used=meter.used(now), now=now)
        return meter

    def _spend(self, key_id: KeyId, tokens: int, at: int) -> None:
        for kind, (start, _) in (
            (LimitKind.TOKENS_PER_DAY, self.day),
            (LimitKind.TOKENS_PER_MONTH, self.month),
        ):
            if at >= start:
                self._own[kind, None] += tokens
                self._own[kind, key_id] += tokens
