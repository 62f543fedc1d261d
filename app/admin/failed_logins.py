"""Every failed login becomes an audit event: soon, in the background, and bounded whatever a flood does.

A few failures a minute of each address have an event each; what goes beyond that is folded into one event per
address and minute that says how many they were, and beyond a number of addresses into one event for all others. So
nothing is left out, and a flood costs the database a few hundred rows a minute. While Postgres is away events wait.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec
import structlog

from app.admin.login_budget import BUDGET, holder_of
from app.gateway.client_address import ClientAddress
from app.metrics import Metrics
from db.postgres import Database, is_outage
from domain.tenants import Actor, KeyStatus, RefusedKey
from domain.values import Role

ACTION: Final = "admin.login_failed"
UNKNOWN_ACTOR: Final = "unknown"
NO_SUBJECT: Final = "admin"
OWN_EVENTS_A_MINUTE: Final = BUDGET + 1
"""Events of their own that the failures of one address get, per minute and process: all that were looked at, and the
first that was not."""
ALL_OWN_EVENTS_A_MINUTE: Final = 100
FOLDS_A_MINUTE: Final = 100
MAX_HOLDERS: Final = 10_000
MAX_WAITING: Final = 1000
FOLD_EVERY_S: Final = 60.0
WRITE_AGAIN_S: Final = 1.0

_log = structlog.get_logger()


class Reason(StrEnum):
    """Why a login failed, as the audit log has it."""

    MALFORMED = "malformed"
    """What was presented is no key at all, or two different ones."""
    UNKNOWN = "unknown"
    REVOKED = "revoked"
    EXPIRED = "expired"
    TENANT_KEY = "tenant_key"
    NETWORK = "network"
    """The key may not be used from the caller's address."""
    SLOWED = "slowed"
    """The address had presented too many wrong keys; this one was not looked at."""


class FailedLogin(msgspec.Struct, frozen=True):
    """One failure. `digests` are those of the presented key, none where it was not looked at or is none."""

    actor: str
    address: ClientAddress | None
    request_id: UUID
    at: datetime
    reason: Reason | None = None
    digests: tuple[bytes, ...] = ()


class _Event(msgspec.Struct, frozen=True):
    """What an event of several or one failure says in its `after`."""

    reason: Reason | None
    attempts: int
    first_at: datetime
    last_at: datetime


class _Fold(msgspec.Struct):
    """Failures that share an event. `last` stands for all of them."""

    last: FailedLogin
    first_at: datetime
    attempts: int = 0


class FailedLogins:
    """Takes failures and writes them down.

    Parameters
    ----------
    find
        Returns what there is to a refused key, by its digests.
    """

    def __init__(
        self,
        database: Database,
        *,
        find: Callable[[tuple[bytes, ...]], Awaitable[RefusedKey | None]],
        metrics: Metrics,
    ) -> None:
        self._database: Final = database
        self._find: Final = find
        self._metrics: Final = metrics
        self._own: Counter[str] = Counter()
        self._folds: dict[str | None, _Fold] = {}
        self._waiting: deque[FailedLogin | _Fold] = deque()
        self._woken = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many events are not written yet."""
        return len(self._waiting)

    def note(self, failed: FailedLogin) -> None:
        """Take note of a failure. Never waits and never fails."""
        holder = holder_of(failed.address)
        has_room = self._own.total() < ALL_OWN_EVENTS_A_MINUTE and len(self._waiting) < MAX_WAITING
        if has_room and self._own[holder] < OWN_EVENTS_A_MINUTE:
            self._own[holder] += 1
            self._waiting.append(failed)
            self._woken.set()
            self._count("alone", 1)
            return
        self._fold(holder if holder in self._folds or len(self._folds) < MAX_HOLDERS else None, failed)
        self._count("together", 1)

    def close_minute(self) -> None:
        """Let what was folded lately be written, and begin anew."""
        self._own.clear()
        busiest = sorted(self._folds, key=lambda holder: -self._folds[holder].attempts)
        for holder in busiest[FOLDS_A_MINUTE - 1 :] if len(busiest) > FOLDS_A_MINUTE else ():
            if holder is not None:
                self._merge(self._folds.pop(holder))
        if len(self._waiting) + len(self._folds) <= MAX_WAITING:
            self._waiting.extend(self._folds.values())
            self._folds = {}
            self._woken.set()

    async def keep_folding(self) -> None:
        """Close a minute after the other, for ever."""
        while True:
            await asyncio.sleep(FOLD_EVERY_S)
            self.close_minute()

    async def keep_writing(self) -> None:
        """Write what is noted, for ever. What Postgres does not take waits for it."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            if not await self._write_waiting():
                await asyncio.sleep(WRITE_AGAIN_S)
                self._woken.set()

    async def finish(self) -> None:
        """Write what there is, once: the process ends. What cannot be written is counted and logged."""
        self.close_minute()
        await self._write_waiting()
        lost = sum(_attempts(each) for each in (*self._waiting, *self._folds.values()))
        if lost:
            self._count("lost", lost)
            _log.error("failed_logins_lost", attempts=lost)

    async def _write_waiting(self) -> bool:
        """Write everything that waits, oldest first; return False at the first that Postgres does not take."""
        while self._waiting:
            try:
                await self._write(self._waiting[0])
            except Exception as exc:  # noqa: BLE001 - whatever the driver raises
                _log.warning(
                    "failed_logins_not_written", waiting=len(self._waiting), error=type(exc).__name__
                )
                if is_outage(exc):
                    return False
                # What Postgres will never take must not keep the others waiting.
                self._count("lost", _attempts(self._waiting[0]))
            self._waiting.popleft()
        return True

    async def _write(self, what: FailedLogin | _Fold) -> None:
        failed = what.last if isinstance(what, _Fold) else what
        subject, reason = NO_SUBJECT, failed.reason
        if isinstance(what, _Fold):
            event = _Event(reason, what.attempts, what.first_at, failed.at)
        else:
            if failed.digests:
                found = await self._find(failed.digests)
                reason = reason_of(found, failed)
                subject = NO_SUBJECT if found is None else f"key:{found.id}"
            event = _Event(reason, 1, failed.at, failed.at)
        address = None if failed.address is None else str(failed.address)
        async with self._database.unit_of_work(Actor(failed.actor, failed.request_id, address)) as work:
            await work.audit.append(ACTION, subject, after=event)

    def _fold(self, holder: str | None, failed: FailedLogin) -> None:
        fold = self._folds.get(holder)
        if fold is None:
            fold = self._folds[holder] = _Fold(_standing_for(failed, holder), failed.at)
        fold.attempts += 1
        fold.last = _standing_for(failed, holder)

    def _merge(self, fold: _Fold) -> None:
        rest = self._folds.get(None)
        if rest is None:
            rest = self._folds[None] = _Fold(_standing_for(fold.last, None), fold.first_at)
        rest.attempts += fold.attempts
        rest.first_at = min(rest.first_at, fold.first_at)
        if rest.last.at < fold.last.at:
            rest.last = _standing_for(fold.last, None)

    def _count(self, noted: str, failures: int) -> None:
        self._metrics.failed_logins.labels(noted).inc(failures)


def reason_of(found: RefusedKey | None, failed: FailedLogin) -> Reason:
    """Return why a key that was presented whole did not let its holder in."""
    if found is None:
        return Reason.UNKNOWN
    if found.role is not Role.ADMIN:
        return Reason.TENANT_KEY
    if found.status is KeyStatus.REVOKED:
        return Reason.REVOKED
    if found.expires_at is not None and found.expires_at <= failed.at:
        return Reason.EXPIRED
    # Nothing else is left, unless the key became good a moment later.
    return Reason.NETWORK if found.allowed_networks else Reason.UNKNOWN


def _standing_for(failed: FailedLogin, holder: str | None) -> FailedLogin:
    """Return the last of several failures without what is its alone."""
    address = None if holder is None else failed.address
    return FailedLogin(UNKNOWN_ACTOR, address, failed.request_id, failed.at)


def _attempts(what: FailedLogin | _Fold) -> int:
    return what.attempts if isinstance(what, _Fold) else 1
