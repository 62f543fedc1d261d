"""What backends saw of a long run: their logs forget, so they are read in time."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from tests.support.ollama import SeenRequest, SimulatedOllama

EVERY_S: Final = 200.0
"""A log keeps 20,000 requests."""


class Witnesses:
    """The requests that reached backends, and how many tokens each was answered with."""

    def __init__(self, backends: Sequence[SimulatedOllama]) -> None:
        self._backends = backends
        self._seen: dict[tuple[str, int], tuple[UUID, int]] = {}

    async def keep_listening(self) -> None:
        """Read the logs again and again, for ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            for backend in self._backends:
                self._note(backend, await backend.requests())

    async def close_the_books(self) -> None:
        """Read the logs once nothing runs; nothing may have been forgotten before it was read."""
        for backend in self._backends:
            self._note(backend, await backend.requests(in_flight=0))
        started = sum([(await backend.stats()).started for backend in self._backends])
        assert len(self._seen) == started, "a log was read too late"

    def _note(self, backend: SimulatedOllama, requests: Sequence[SeenRequest]) -> None:
        for request in requests:
            self._seen[backend.name, request.number] = (UUID(str(request.request_id)), request.tokens)

    def emitted(self) -> Counter[UUID]:
        """Return the tokens that backends wrote, by request; 0 for those that got none."""
        found: Counter[UUID] = Counter()
        for request_id, tokens in self._seen.values():
            found[request_id] += tokens
        return found
