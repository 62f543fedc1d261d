"""Places: how many requests a backend with `max_in_flight` serves at once, for each model, over all processes.

A request asks for a place before each attempt at such a backend, and gives it back when its answer is closed. Redis
decides (`db/redis/places.py`); while it is away each process uses its own share (`app/gateway/line.py`).
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import structlog
from redis.exceptions import RedisError

from app.gateway.line import Line, QueueTimes, Terms, Ticket
from db.redis.places import PlaceNews
from db.tasks import end
from domain.route import Candidate

RECONNECT_PAUSE_S: Final = 1.0
LAST_WORDS_S: Final = 1.0

_NO_TICKET: Final = nullcontext[Ticket | None](None)

_log = structlog.get_logger()


class Places:
    """The lines of this process, one for each model that lately needed it."""

    def __init__(self, terms: Terms, news: PlaceNews) -> None:
        self._terms = terms
        self._news = news
        self._lines: dict[str, Line] = {}

    def ticket(
        self, model: str, candidates: Sequence[Candidate], times: QueueTimes
    ) -> AbstractContextManager[Ticket | None]:
        """Return what a request asks for places with, in a `with` block: at its end no place is held any more.

        The ticket is None, and costs nothing, if no candidate has a `max_in_flight`.
        """
        caps = self._terms.caps
        if not caps or not any(candidate.backend in caps for candidate in candidates):
            return _NO_TICKET
        return Ticket(lambda: self._line(model), times, self._terms)

    def _line(self, model: str) -> Line:
        line = self._lines.get(model)
        if line is None:
            line = self._lines[model] = Line(model, self._terms, on_end=lambda: self._ended(model))
        return line

    def _ended(self, model: str) -> None:
        del self._lines[model]

    async def listen(self) -> None:
        """Speak whenever other processes ask for it, for ever; reconnects after a pause.

        Every line's own tick stands in for news that were lost.
        """
        while True:
            try:
                async with self._news.heard() as models:
                    async for model in models:
                        self._called(model)
            except (RedisError, OSError) as exc:
                _log.debug("place_news_unreachable", error=type(exc).__name__)
            self._terms.reach.disturbed()
            await asyncio.sleep(RECONNECT_PAUSE_S)

    def _called(self, model: str | None) -> None:
        """Speak of one model, or of all."""
        for line in [*self._lines.values()]:
            if model in {None, line.model}:
                line.speak()

    async def leave(self) -> None:
        """Say for the last time what this process holds, which should be nothing any more, and end."""
        tasks = [line.task for line in self._lines.values()]
        for line in self._lines.values():
            line.end_soon()
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_WORDS_S)
        await end(*tasks)

    def refresh_metrics(self) -> None:
        """Bring the figures up to date that are read rather than counted."""
        in_use = dict.fromkeys(self._terms.caps, 0)
        for line in self._lines.values():
            for backend, places in line.held.items():
                in_use[backend] += places
        for backend, places in in_use.items():
            self._terms.metrics.places_in_use.labels(backend).set(places)
        self._terms.metrics.waiting.set(sum(line.waiting for line in self._lines.values()))
