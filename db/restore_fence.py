"""After a restore from backup: no cache and no revoked key survives from before it.

A backup brings back keys that were revoked since, and a sequence of revocations that starts to repeat numbers.
The fence repeats the revocations that the mirror remembers, and lets the sequence go on far above any number
that a cache could carry, so that every process drops what it holds.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from redis.asyncio import Redis

from db.postgres import Database, UnitOfWork
from db.redis.key_cache import RedisKeyCache
from db.redis.revocation_channel import Announcement, RevocationAnnouncer, highest_number
from db.revocation_mirror import MirroredRevocation, RevocationMirror
from db.revocations import Revocations
from domain.tenants import Actor, KeyStatus, KeyUnknown, RevocationScope, TenantStatus

MARGIN: Final = 1_000_000
"""How far above the highest number found: some process may have seen numbers that nobody else has."""
NOBODY: Final = UUID(int=0)
"""Whom the fence's own row names."""
_BATCH_LINES: Final = 1000

_Subject = tuple[RevocationScope, UUID]


class FenceReport(msgspec.Struct, frozen=True):
    """What was done.

    `newest_before` is where Postgres stood, `seq` where it stands now; `keys` are prefixes and `tenants` slugs
    that were revoked and suspended again; `changed` names the ones whose limits, grants or networks were changed
    after the backup, which nobody can repeat; `cached_keys` counts what was forgotten in Redis.
    """

    seq: int
    newest_before: int
    highest_in_redis: int
    highest_in_mirror: int
    lines_after_backup: int
    keys: tuple[str, ...]
    tenants: tuple[str, ...]
    changed: tuple[str, ...]
    cached_keys: int


class _Applied(msgspec.Struct):
    keys: list[str] = msgspec.field(default_factory=list)
    tenants: list[str] = msgspec.field(default_factory=list)
    changed: list[str] = msgspec.field(default_factory=list)


async def raise_restore_fence(
    database: Database, redis: Redis, mirror: RevocationMirror | None, *, actor: Actor
) -> FenceReport:
    """Fence off everything from before the restore. Repeating it finds nothing left to revoke.

    Parameters
    ----------
    database
        The restored database.
    redis
        The Redis of the gateway.
    mirror
        The mirror, which afterwards also holds what was done here; None where there is none.
    actor
        Who does it, for the audit log.

    Raises
    ------
    RedisError, OSError
        Redis is out of reach, or the mirror cannot be read. Nothing was changed, unless Redis went away in the
        middle; then do it again. What Postgres raises passes through.
    """
    in_redis = await highest_number(redis)
    async with database.unit_of_work(actor) as work:
        await work.revocations.lock()
        oldest, newest = await work.revocations.span()
        lost = _Lost(oldest)
        for lines in _batches(() if mirror is None else mirror.lines()):
            lost.compare(lines, await work.revocations.standing([line.seq for line in lines]))
        applied = await _apply(work, lost.last_words)
        _, after_applying = await work.revocations.span()
        seq = max(after_applying, in_redis, lost.highest) + MARGIN
        await work.revocations.raise_fence(seq)
        await work.audit.append("restore.fence", f"revocations:{seq}", after={"newest_before": newest})
    if mirror is not None:
        await mirror.rejoin(Revocations(database.engine).since)
    cached_keys = await RedisKeyCache(redis).clear()
    await _announce(redis, seq)
    return FenceReport(
        seq=seq,
        newest_before=newest,
        highest_in_redis=in_redis,
        highest_in_mirror=lost.highest,
        lines_after_backup=lost.lines,
        keys=tuple(applied.keys),
        tenants=tuple(applied.tenants),
        changed=tuple(applied.changed),
        cached_keys=cached_keys,
    )


class _Lost:
    """What the mirror says that the restored database has never heard of: the last word about each subject."""

    def __init__(self, oldest: int) -> None:
        self._oldest = oldest
        self.highest = 0
        self.lines = 0
        self.last_words: dict[_Subject, MirroredRevocation] = {}

    def compare(self, lines: Sequence[MirroredRevocation], standing: Mapping[int, datetime]) -> None:
        for line in lines:
            self.highest = max(self.highest, line.seq)
            # Of what is older than the oldest row there is, retention has taken the rows, not the restore.
            known = line.seq < self._oldest or standing.get(line.seq) == line.at
            if line.id == NOBODY:
                if known:
                    # A fence that still stands has dealt with everything above it, and operators have gone on.
                    self.last_words.clear()
                    self.lines = 0
            elif not known:
                self.lines += 1
                self.last_words[line.scope, line.id] = line


async def _apply(work: UnitOfWork, last_words: dict[_Subject, MirroredRevocation]) -> _Applied:
    applied = _Applied()
    tenants = {tenant.id: tenant for tenant in await work.tenants.list()}
    for (scope, subject), line in last_words.items():
        if scope is RevocationScope.KEY:
            await _apply_to_key(work, str(subject), line, applied)
        elif (tenant := tenants.get(subject)) is not None:  # type: ignore[call-overload] # a TenantId is a UUID
            if line.usable:
                applied.changed.append(f"tenant {tenant.slug}")
            elif tenant.status is TenantStatus.ACTIVE:
                await work.tenants.set_status(tenant.slug, TenantStatus.SUSPENDED)
                applied.tenants.append(tenant.slug)
    return applied


async def _apply_to_key(
    work: UnitOfWork, reference: str, line: MirroredRevocation, applied: _Applied
) -> None:
    try:
        keys = work.keys(await work.tenants.owner_of_key(reference))
    except KeyUnknown:
        return  # made after the backup: it is gone, and nobody can use it
    key = await keys.get(reference)
    if line.usable:
        applied.changed.append(f"key {key.prefix}")
    elif key.status is KeyStatus.ACTIVE:
        await keys.revoke(reference)
        applied.keys.append(key.prefix)


async def _announce(redis: Redis, seq: int) -> None:
    """Have every process ask Postgres now, unless the worker has already told them."""
    announcer = RevocationAnnouncer(redis)
    while (epoch := await announcer.epoch()) is None or epoch < seq:
        await announcer.announce(Announcement(after=seq, seq=seq), instead_of=epoch)


def _batches(lines: Iterable[MirroredRevocation]) -> Iterable[list[MirroredRevocation]]:
    source = iter(lines)
    while batch := list(itertools.islice(source, _BATCH_LINES)):
        yield batch
