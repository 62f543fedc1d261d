"""Noticing that a client left, with either kind of awaitable a server may hand out."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.gateway.client_watch import ClientWatch

GONE = {"type": "http.disconnect"}
LATE_BODY = {"type": "http.request", "body": b"", "more_body": False}

Receive = Callable[[], Any]


class Server:
    """Hands out futures, as granian does, or coroutines, as others do."""

    def __init__(self, *, futures: bool) -> None:
        self._futures = futures
        self._loop = asyncio.get_running_loop()
        self.pending: asyncio.Future[Any] = self._loop.create_future()

    def receive(self) -> Any:
        self.pending = self._loop.create_future()
        return self.pending if self._futures else self._wait(self.pending)

    @staticmethod
    async def _wait(pending: asyncio.Future[Any]) -> Any:
        return await pending


@pytest.fixture(params=[True, False], ids=["future", "coroutine"])
async def server(request: pytest.FixtureRequest) -> Server:
    return Server(futures=request.param)


async def turn() -> None:
    """Let everything happen that can happen now."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_client_that_leaves_is_noticed_once(server: Server) -> None:
    gone: list[bool] = []
    ClientWatch(server.receive, lambda: gone.append(True))
    await turn()
    assert gone == []

    server.pending.set_result(GONE)
    await turn()

    assert gone == [True]


async def test_the_end_of_a_body_is_no_leaving(server: Server) -> None:
    gone: list[bool] = []
    ClientWatch(server.receive, lambda: gone.append(True))
    await turn()
    server.pending.set_result(LATE_BODY)
    await turn()
    assert gone == []

    server.pending.set_result(GONE)
    await turn()

    assert gone == [True]


async def test_a_broken_connection_is_a_leaving(server: Server) -> None:
    gone: list[bool] = []
    ClientWatch(server.receive, lambda: gone.append(True))
    await turn()

    server.pending.set_exception(OSError("reset"))
    await turn()

    assert gone == [True]


async def test_a_stopped_watch_notices_nothing_and_waits_for_nothing(server: Server) -> None:
    gone: list[bool] = []
    watch = ClientWatch(server.receive, lambda: gone.append(True))
    await turn()

    watch.stop()
    await turn()

    assert server.pending.cancelled()
    assert gone == []


async def test_a_client_that_leaves_while_the_watch_stops_is_not_noticed(server: Server) -> None:
    gone: list[bool] = []
    watch = ClientWatch(server.receive, lambda: gone.append(True))
    await turn()

    server.pending.set_result(GONE)
    watch.stop()
    await turn()

    assert gone == []
