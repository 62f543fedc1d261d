"""`drains.fold`: which backends operators have drained becomes part of the model table, the moment they say so.

Postgres has the decision (`db/backend_states.py`), its trigger wakes the worker, and app processes read the table.
Every poll writes the decision along with what it learned, so nothing depends on this job but its speed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import msgspec
import structlog

from db.redis.model_table_read import ModelTableReader
from db.redis.model_table_write import ModelTableWriter
from domain.model_table import BackendState, ModelTable

ASK_S: Final = 1.0
"""How long a poll, whose own business is with the backends, waits for Postgres."""

ReadDrained = Callable[[], Awaitable[Collection[str]]]

_log = structlog.get_logger()


class KnownDrains:
    """The drained backends as a poll knows them: by Postgres, or while that is silent by what was known last.

    Parameters
    ----------
    read
        Returns the names in Postgres; may raise anything.
    """

    def __init__(self, read: ReadDrained) -> None:
        self._read = read
        self._names: Collection[str] = frozenset()
        self._in_vain = False
        self._failing = False

    def remember(self, table: ModelTable) -> None:
        """Take over what a table says, and ask Postgres again from now on."""
        self._names = frozenset(state.name for state in table.backends if state.drained)
        self._in_vain = False

    async def marked(self, states: Collection[BackendState]) -> tuple[BackendState, ...]:
        """Return the states with the decision of this moment in them. Of a silent Postgres a poll asks once."""
        if not self._in_vain:
            await self._ask()
        return mark(states, self._names)

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(ASK_S):
                self._names = await self._read()
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with Postgres, backends are polled without it
            self._in_vain = True
            if not self._failing:
                _log.warning("drains_unreadable", error=type(exc).__name__, known=sorted(self._names))
            self._failing = True
            return
        if self._failing:
            _log.info("drains_readable_again")
        self._failing = False


async def fold(read: ReadDrained, *, reader: ModelTableReader, writer: ModelTableWriter) -> bool:
    """Bring the table up to what operators have decided, without asking any backend; return whether that changed it.

    Safe to run twice and at the same time: whoever was slower looks again.

    Raises
    ------
    redis.exceptions.RedisError, OSError
        Redis is out of reach. What `read` raises passes through as well.
    """
    while True:
        # In this order: a decision made after it was read wakes the next run, and a table written after its version was
        # read is not replaced.
        version = await reader.read_version() or 0
        table = await reader.read_table()
        drained = await read()
        if table is None:
            return False
        backends = mark(table.backends, drained)
        if backends == table.backends:
            return False
        # Nobody was asked, so the table does not become any younger.
        if await writer.replace(backends, based_on=version, now=table.written_at):
            _log.info("drains_folded", drained=sorted(drained))
            return True


def mark(states: Collection[BackendState], drained: Collection[str]) -> tuple[BackendState, ...]:
    """Return the states with those marked whose names are given, and no others."""
    return tuple(msgspec.structs.replace(state, drained=state.name in drained) for state in states)
