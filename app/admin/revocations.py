"""`/admin/v1/revocations`: how far each process is behind what was revoked."""

from typing import Annotated

import structlog
from litestar import Controller, get
from msgspec import Meta
from redis.exceptions import RedisError

from app.admin.contract import Answered
from app.admin.handed import Admin

Seq = Annotated[int, Meta(ge=0, description="A number in the sequence of revocations; 0 before the first.")]

_log = structlog.get_logger()


class ProcessLag(Answered):
    """How far one app process is."""

    name: Annotated[str, Meta(description="Host, process id and a part that no other process ever has.")]
    seq: Annotated[
        int, Meta(description="It has acted upon everything up to this number; -1: it has just begun.")
    ]
    behind: Annotated[int, Meta(ge=0, description="Revocations it has not acted upon.")]


class RevocationLag(Answered):
    """Where the news of revocations are."""

    newest: Annotated[Seq, Meta(description="The newest number in Postgres, the truth.")]
    redis_reachable: Annotated[
        bool,
        Meta(description="False: nothing below is known. Each process then follows Postgres, within 2 s."),
    ]
    epoch: Annotated[
        int | None, Meta(description="The newest number announced through Redis; null: none yet.")
    ]
    processes: Annotated[tuple[ProcessLag, ...], Meta(description="Every live app process, by name.")]


class RevocationController(Controller):
    """The sequence of revocations."""

    path = "/revocations"
    tags = ("revocations",)

    @get("/lag", operation_id="getRevocationLag", summary="Tell how far each process follows revocations")
    async def get_lag(self, admin: Admin) -> RevocationLag:
        """Answer what Postgres has, what Redis has announced, and what each process has acted upon."""
        newest = await admin.revocations.latest_seq()
        try:
            epoch, seen = await admin.announced(), await admin.seen()
        except (RedisError, OSError) as exc:
            _log.warning("revocation_lag_unknown", error=type(exc).__name__)
            return RevocationLag(newest=newest, redis_reachable=False, epoch=None, processes=())
        processes = tuple(
            ProcessLag(name=name, seq=seq, behind=max(0, newest - max(seq, 0)))
            for name, seq in sorted(seen.items())
        )
        return RevocationLag(newest=newest, redis_reachable=True, epoch=epoch, processes=processes)
