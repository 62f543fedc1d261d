import asyncio
import signal

from app.embedded.requests_to_stop import requests_to_stop

WITHIN_S = 5.0


class Heard:
    """What was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._changed = asyncio.Event()

    def stop(self) -> None:
        self.calls.append("stop")
        self._changed.set()

    def hurry(self) -> None:
        self.calls.append("hurry")
        self._changed.set()

    async def next(self) -> None:
        async with asyncio.timeout(WITHIN_S):
            await self._changed.wait()
        self._changed.clear()


async def test_the_first_signal_stops_and_the_second_hurries() -> None:
    heard = Heard()
    with requests_to_stop(stop=heard.stop, hurry=heard.hurry, echo_s=0):
        signal.raise_signal(signal.SIGTERM)
        await heard.next()
        signal.raise_signal(signal.SIGINT)
        await heard.next()

    assert heard.calls == ["stop", "hurry"]


async def test_a_signal_that_arrives_twice_at_once_counts_once() -> None:
    heard = Heard()
    with requests_to_stop(stop=heard.stop, hurry=heard.hurry, echo_s=60):
        signal.raise_signal(signal.SIGINT)
        await heard.next()
        signal.raise_signal(signal.SIGINT)
        await asyncio.to_thread(lambda: None)  # a turn of the loop, in which it would have been heard

    assert heard.calls == ["stop"]
