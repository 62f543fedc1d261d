"""Closing what can be closed. Every act is safe to repeat, and beside a running gateway."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import anyio.to_thread
from sqlalchemy.exc import DBAPIError

from app.gateway.journal.adoption import remove_leftover
from app.reconcile.findings import Finding, FindingKind, Records, Reservations, Tenant
from app.reconcile.seen import Stores
from db.redis.limit_recounts import LimitLeases
from db.redis.limits import LimitStore
from db.redis.multiplex import MultiplexedRedis
from db.redis.revocation_channel import seen_by
from db.redis.usage_stream_look import StreamLook, UsageStreamLook
from db.usage import blames_a_value
from db.usage_look import SumDifference, SumUnit
from domain.usage import UsageRecord
from domain.values import TenantId

WRITE_RECORDS: Final = 512
_LENGTHS: Final = {SumUnit.HOUR: timedelta(hours=1), SumUnit.DAY: timedelta(days=1)}


class Repairs:
    """Closes findings one by one. `scripts` is the connection for what limits are asked and told."""

    def __init__(self, stores: Stores, scripts: MultiplexedRedis) -> None:
        self._stores = stores
        self._limits = LimitStore(scripts, process_id="reconcile")
        self._leases = LimitLeases(scripts)
        self._streams = UsageStreamLook(stores.redis)
        self._forgotten: set[TenantId] = set()

    async def close(self, finding: Finding) -> str | None:
        """Do what can be done about a finding and say what that was; None if nothing can be.

        Raises
        ------
        RedisError, OSError, SQLAlchemyError
            A store failed. What was done before stays done.
        """
        done: str | None = None
        match finding.matter:
            case Records() if finding.explanation.repair is not None:
                done = await self._write(finding.where, finding.matter)
            case SumDifference():
                done = await self._mark(finding.matter)
            case StreamLook():
                done = await self._correct(finding.matter)
            case Reservations() if finding.explanation.repair is not None:
                done = await self._release(finding.kind, finding.matter)
            case Tenant():
                done = await self._recount(finding.matter.tenant_id)
            case Path():
                done = await _on_disk(
                    remove_leftover, finding.matter, "deleted, unless a process holds it by now"
                )
        return done

    async def _write(self, source: str, found: Records) -> str:
        changed = refused = 0
        for at in range(0, len(found.records), WRITE_RECORDS):
            written, unwritten = await self._insert(found.records[at : at + WRITE_RECORDS], source)
            changed, refused = changed + written, refused + unwritten
        told = (
            f"{changed:,} of {len(found.records):,} written into the ledger"
            if found.records
            else "nothing to write"
        )
        if refused:
            return f"{told}; the database refuses {refused:,}"
        holder = found.holder
        if isinstance(holder, Path):
            return f"{told}, {await _on_disk(_delete, holder, 'file deleted')}"
        if holder is not None:
            await self._streams.drop_dead(holder)
            return f"{told}, batch dropped"
        return told

    async def _insert(self, records: Sequence[UsageRecord], source: str) -> tuple[int, int]:
        """Write records; return how many rows changed and how many records the database will never take."""
        try:
            async with self._stores.database.unit_of_work(self._stores.actor) as work:
                return await work.usage_repairs.insert(records, source=source), 0
        except DBAPIError as exc:
            if not blames_a_value(exc):
                raise
        if len(records) == 1:
            return 0, 1
        half = len(records) // 2
        first, rest = await self._insert(records[:half], source), await self._insert(records[half:], source)
        return first[0] + rest[0], first[1] + rest[1]

    async def _mark(self, found: SumDifference) -> str:
        async with self._stores.database.unit_of_work(self._stores.actor) as work:
            hours = await work.usage_repairs.mark(found.first, found.first + _LENGTHS[found.unit])
        if not hours:
            return "nothing: no row is left that it could be made from"
        return f"{hours:,} {'hour' if hours == 1 else 'hours'} marked, to be summed anew by the worker within the hour"

    async def _correct(self, found: StreamLook) -> str:
        if await self._streams.correct(found):
            return f"set to {found.records:,}"
        return "nothing: the stream has changed meanwhile"

    async def _release(self, kind: FindingKind, found: Reservations) -> str:
        if kind is FindingKind.RESERVED_BY_DEAD:
            live = frozenset(await seen_by(self._stores.redis))
            return f"{await self._leases.sweep(found.tenant_id, live):,} given back"
        settled = [
            await self._limits.settle(found.tenant_id, request_id, tokens)
            for request_id, tokens in found.tokens.items()
        ]
        return f"{sum(settled):,} settled"

    async def _recount(self, tenant_id: TenantId) -> str:
        if tenant_id not in self._forgotten:
            self._forgotten.add(tenant_id)
            await self._limits.forget(tenant_id)
        return "forgotten: the tenant's next request counts anew"


async def _on_disk(act: Callable[[Path], None], path: Path, done: str) -> str:
    try:
        await anyio.to_thread.run_sync(act, path)
    except OSError as exc:
        return f"the file stays: {(exc.strerror or 'the disk failed').lower()}"
    return done


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)
