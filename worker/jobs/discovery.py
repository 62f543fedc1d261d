"""`discovery.poll`: ask every backend what it hosts and store the answers as one table.

The answers of quick backends are stored without waiting for slow ones. What a failing backend last said stays
in the table, marked stale and later silent.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Self

import msgspec
import structlog

from db.redis.model_table_read import ModelTableReader
from db.redis.model_table_write import ModelTableWriter
from domain.backends import BackendSpec, config_digest
from domain.model_table import BackendCondition, BackendState, ModelTable
from worker.backend_client import BackendAnswer, BackendClient, PollFailed
from worker.jobs.drains import KnownDrains, ReadDrained

# Answers that come within this time are stored together.
_WAVE_S: Final = 0.25

# A storm of requests for an early poll must not become a storm of polls.
MIN_GAP_S: Final = 1.0

_log = structlog.get_logger()


def utc_now() -> datetime:
    """Return the time of the machine."""
    return datetime.now(UTC)


class Discovery:
    """Polls the backends, whose order is their priority.

    Parameters
    ----------
    backends
        All backends in the operator's order.
    reader, writer
        The two sides of the model table.
    timeout_s
        What one backend may take for its answer.
    stale_s
        How long after its last good answer a failing backend's models stay in the lists.
    min_gap_s
        The least time between two polls, whoever asks for them.
    clock
        The time of day, with time zone.
    drained
        Returns the names of the backends that operators have drained; may raise anything.
    """

    def __init__(
        self,
        backends: tuple[BackendSpec, ...],
        *,
        reader: ModelTableReader,
        writer: ModelTableWriter,
        timeout_s: float,
        stale_s: float,
        drained: ReadDrained,
        min_gap_s: float = MIN_GAP_S,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        tls = ssl.create_default_context()
        self._digests = {backend.name: config_digest(backend) for backend in backends}
        self._clients = {
            backend.name: BackendClient(backend, timeout_s=timeout_s, tls=tls) for backend in backends
        }
        self._reader = reader
        self._writer = writer
        self._stale = timedelta(seconds=stale_s)
        self._drains = KnownDrains(drained)
        self._min_gap_s = min_gap_s
        self._clock = clock
        # What the table held when we last saw it: a Redis that lost its data must not cost a failing backend
        # its models.
        self._states: dict[str, BackendState] = {}
        self._split_models: frozenset[str] = frozenset()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def poll(self) -> None:
        """Ask all backends at once and store what they say. May run twice: the newer answers win.

        Raises
        ------
        redis.exceptions.RedisError, OSError
            Redis is out of reach. A backend's trouble never raises.
        """
        version = await self._recall()
        before = dict(self._states)
        asked_at = self._clock()
        asked = {asyncio.create_task(self._ask(name)): name for name in self._clients}
        try:
            pending = set(asked)
            while pending:
                done, pending = await asyncio.wait(pending, timeout=_WAVE_S if len(pending) > 1 else None)
                if not done:
                    continue
                for task in done:
                    self._states[asked[task]] = self._next_state(
                        asked[task], task.result(), asked_at=asked_at
                    )
                version = await self._store(version)
        finally:
            for task in asked:
                task.cancel()
        self._report(before)

    async def _recall(self) -> int:
        """Return the table's version; take over what is newer in it; keep the gap to the last poll."""
        for name, digest in self._digests.items():
            self._states.setdefault(name, BackendState(name, digest, BackendCondition.UNKNOWN))
        version, table = await self._take_over()
        if table is None:
            return version
        age_s = (self._clock() - table.written_at).total_seconds()
        # Two machines' clocks may differ, hence both bounds.
        await asyncio.sleep(min(max(self._min_gap_s - age_s, 0), self._min_gap_s))
        return version

    async def _take_over(self) -> tuple[int, ModelTable | None]:
        """Take over what is newer in the table than what we know; return its version and the table itself."""
        version = await self._reader.read_version() or 0
        try:
            table = await self._reader.read_table()
        except msgspec.MsgspecError:
            _log.warning("model_table_unreadable", version=version)
            table = None
        if table is None:
            return version, None
        self._drains.remember(table)
        for state in table.backends:
            known = self._states.get(state.name)
            if known is not None and known.config_digest == state.config_digest and _is_newer(state, known):
                self._states[state.name] = state
        return version, table

    async def _ask(self, name: str) -> BackendAnswer | PollFailed:
        try:
            return await self._clients[name].ask()
        except PollFailed as failure:
            return failure
        except Exception as exc:  # noqa: BLE001 - logged with its trace
            # One backend must never cost the others their poll, whatever it managed to break.
            _log.exception("backend_poll_broke", backend=name)
            return PollFailed(type(exc).__name__)

    def _next_state(
        self, name: str, answer: BackendAnswer | PollFailed, *, asked_at: datetime
    ) -> BackendState:
        last, now = self._states[name], self._clock()
        if isinstance(answer, BackendAnswer):
            return BackendState(
                name=name,
                config_digest=self._digests[name],
                condition=BackendCondition.OK,
                models=answer.models,
                version=answer.version,
                # An answer may lie here for a wave: it says nothing of what failed meanwhile.
                last_ok_at=asked_at,
                polled_at=now,
                in_memory=answer.loaded,
            )
        return msgspec.structs.replace(
            last,
            condition=failing_condition(last.last_ok_at, now=now, stale=self._stale),
            polled_at=now,
            error=answer.kind,
            in_memory=(),
        )

    async def _store(self, based_on: int) -> int:
        """Store what we know on top of a table, or of whatever has replaced it; return the new version."""
        while True:
            # Read after the version: a drain that comes later than this has replaced the table, or will.
            states = await self._drains.marked([self._states[name] for name in self._digests])
            table = await self._writer.replace(states, based_on=based_on, now=self._clock())
            if table is not None:
                return table.version
            # Another worker polled at the same time, or a drain was folded in.
            _log.debug("model_table_written_by_another", based_on=based_on)
            based_on, _ = await self._take_over()

    def _report(self, before: Mapping[str, BackendState]) -> None:
        for name in self._digests:
            was, now = before[name], self._states[name]
            if (was.condition, was.error) != (now.condition, now.error):
                log = _log.info if now.condition is BackendCondition.OK else _log.warning
                log(
                    "backend_state_changed",
                    backend=name,
                    was=was.condition.value,
                    now=now.condition.value,
                    error=now.error,
                    models=len(now.models),
                )
        split = split_models(self._states)
        for model in sorted(split.keys() - self._split_models):
            _log.warning("model_differs_between_backends", model=model, backends=split[model])
        self._split_models = frozenset(split)


def failing_condition(last_ok_at: datetime | None, *, now: datetime, stale: timedelta) -> BackendCondition:
    """Return what a backend that just failed is, by the time of its last good answer."""
    if last_ok_at is None:
        return BackendCondition.UNKNOWN
    return BackendCondition.SILENT if now - last_ok_at > stale else BackendCondition.STALE


def split_models(states: Mapping[str, BackendState]) -> dict[str, tuple[str, ...]]:
    """Return the models that are not the same files on all backends that host them, with those backends."""
    digests: dict[str, dict[str, str]] = {}
    for state in states.values():
        for model in state.models:
            digests.setdefault(model.name, {})[state.name] = model.digest
    return {name: tuple(hosts) for name, hosts in digests.items() if len(set(hosts.values())) > 1}


def _is_newer(state: BackendState, known: BackendState) -> bool:
    return known.polled_at is None or (state.polled_at is not None and state.polled_at > known.polled_at)
