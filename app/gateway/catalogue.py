"""The model table as this process uses it: the last snapshot read from Redis, decoded and turned round.

The worker writes it; here it is only ever read. Changes arrive by pub/sub, and the version is checked every
second in case a message was lost. While Redis is away the last snapshot serves on.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog

from app.gateway.cooldown import Cooldown
from domain.errors import Unavailable
from domain.model_table import BackendCondition, ModelTable
from domain.route import ModelIndex

CHECK_INTERVAL_S: Final = 1.0

_log = structlog.get_logger()
_EMPTY: Final = ModelTable(version=0, written_at=datetime(1970, 1, 1, tzinfo=UTC))


class TableReader(Protocol):
    """The read side of the model table in Redis."""

    async def read_version(self) -> int | None:
        """Return the current version, None if no table was ever written."""

    async def read_table(self) -> ModelTable | None:
        """Return the current table, None if none was ever written."""

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[object]]:
        """Subscribe; yields something for each announced change."""


class Catalogue:
    """The current `ModelIndex`, kept up to date.

    `config_digests` names the backends this process is configured with, `allow_cloud` those of them that may use
    Ollama's cloud. `on_table` is told of every new table.
    """

    def __init__(
        self,
        *,
        reader: TableReader,
        config_digests: Mapping[str, str],
        cooldown: Cooldown,
        allow_cloud: Collection[str] = (),
        on_table: Callable[[ModelIndex], None] = lambda _: None,
    ) -> None:
        self._reader = reader
        self._config_digests = dict(config_digests)
        self._allow_cloud = frozenset(allow_cloud)
        self._cooldown = cooldown
        self._on_table = on_table
        self._ignored: tuple[str, ...] = ()
        self._refreshing = asyncio.Lock()
        self._failing: set[str] = set()
        self.index = ModelIndex(_EMPTY, self._config_digests)
        self.has_table = False
        self.redis_ok_at = float("-inf")

    def known(self) -> ModelIndex:
        """Return the index in use, for whoever would take an empty one for "no such model".

        Raises
        ------
        Unavailable
            No table was read since this process started: Redis is away, or has lost it and no poll is over yet.
        """
        if not self.has_table:
            raise Unavailable("model_table_unknown")
        return self.index

    def age_s(self) -> float:
        """Seconds since the worker wrote the table in use."""
        return (datetime.now(UTC) - self.index.table.written_at).total_seconds()

    async def follow(self) -> None:
        """Check the version every second, for ever."""
        while True:
            await self._guarded("read", self.refresh)
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def listen(self) -> None:
        """Refresh at every announced change, for ever; reconnects after a pause."""
        while True:
            await self._guarded("listen", self._listen_once)
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def _listen_once(self) -> None:
        async with self._reader.changes() as changes:
            async for _ in changes:
                await self.refresh()
                self._succeeded("listen")

    async def _guarded(self, what: str, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except Exception as exc:  # noqa: BLE001 - whatever Redis or a broken value raises, the old table serves on
            if what not in self._failing:
                _log.warning(
                    "model_table_unreadable",
                    step=what,
                    error=type(exc).__name__,
                    version=self.index.table.version,
                )
            self._failing.add(what)

    def _succeeded(self, what: str) -> None:
        if what in self._failing:
            _log.info("model_table_readable_again", step=what, version=self.index.table.version)
            self._failing.discard(what)

    async def refresh(self) -> None:
        """Read the table if its version differs from the one in use."""
        async with self._refreshing:
            version = await self._reader.read_version()
            if version is not None and version != self.index.table.version:
                table = await self._reader.read_table()
                if table is not None:
                    self._use(table)
            self.redis_ok_at = time.monotonic()
            self._succeeded("read")

    def _use(self, table: ModelTable) -> None:
        self.index = ModelIndex(table, self._config_digests, allow_cloud=self._allow_cloud)
        self.has_table = True
        self._cooldown.polled(
            {s.name: s.last_ok_at for s in table.backends if s.condition is BackendCondition.OK}
        )
        if self.index.ignored != self._ignored:
            self._ignored = self.index.ignored
            _log.warning("model_table_names_other_backends", backends=self._ignored)
        self._on_table(self.index)
