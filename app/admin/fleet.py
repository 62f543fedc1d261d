"""What operators may know of the backends: settings, the model table in use, and what every app process says."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.gateway.catalogue import Catalogue
from db.redis.backend_board import BackendReport, reports
from domain.backends import BackendSpec
from domain.drains import BackendUnknown
from domain.model_table import BackendState

EFFECTIVE_WITHIN_S: Final = 5.0
_LOOK_AGAIN_S: Final = 0.005

_log = structlog.get_logger()


class Seen(NamedTuple):
    """What all live processes say together. None everywhere: Redis cannot be asked, or nobody has reported yet."""

    reports: Sequence[BackendReport] | None

    @property
    def processes(self) -> int | None:
        """How many processes there are."""
        return None if self.reports is None else len(self.reports)

    def in_flight(self, backend: str) -> int | None:
        """How many requests the backend has from all of them."""
        return None if self.reports is None else sum(each.in_flight.get(backend, 0) for each in self.reports)

    def cooling_in(self, backend: str) -> int | None:
        """How many of them leave the backend out for a moment because it failed."""
        return None if self.reports is None else sum(backend in each.cooling for each in self.reports)

    def agree(self, backend: str, *, drained: bool) -> bool | None:
        """Whether all of them treat the backend as drained, or none of them does."""
        if self.reports is None:
            return None
        return all((backend in each.drained) is drained for each in self.reports)


class Fleet:
    """The backends of this process's settings, in the operator's order."""

    def __init__(self, specs: Sequence[BackendSpec], *, catalogue: Catalogue, redis: Redis) -> None:
        """`redis` is a patient client."""
        self.specs: Final = tuple(specs)
        self._catalogue = catalogue
        self._redis = redis

    def spec(self, name: str) -> BackendSpec:
        """Return what the settings say of one backend.

        Raises
        ------
        BackendUnknown
            They do not name it.
        """
        for spec in self.specs:
            if spec.name == name:
                return spec
        raise BackendUnknown(name)

    def states(self) -> dict[str, BackendState]:
        """Return by name what the table in use says of the backends that are configured here as well."""
        return {state.name: state for state in self._catalogue.index.backends}

    def known_states(self) -> tuple[BackendState, ...]:
        """Return the same in the operator's order.

        Raises
        ------
        Unavailable
            This process has read no table yet.
        """
        return self._catalogue.known().backends

    def written_at(self) -> datetime | None:
        """Return when the table in use was written, None if there is none yet."""
        return self._catalogue.index.table.written_at if self._catalogue.has_table else None

    async def seen(self) -> Seen:
        """Ask Redis what every app process says."""
        try:
            return Seen(await reports(self._redis) or None)
        except (RedisError, OSError, msgspec.MsgspecError) as exc:
            _log.warning("backend_reports_unreadable", error=type(exc).__name__)
            return Seen(None)

    async def settled(self, name: str, *, drained: bool) -> Seen:
        """Return what the processes say once all of them follow a decision, or after `EFFECTIVE_WITHIN_S`."""
        give_up_at = time.monotonic() + EFFECTIVE_WITHIN_S
        while True:
            seen = await self.seen()
            if seen.agree(name, drained=drained) or time.monotonic() >= give_up_at:
                return seen
            await asyncio.sleep(_LOOK_AGAIN_S)
