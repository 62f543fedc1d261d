"""Requests whose client left while others wait for the same: kept open as long as anybody does, and no longer."""

import asyncio

import pytest

from app.gateway.downstream import Downstream
from app.gateway.loads import Loads
from tests.support.asgi import Outbox


def client(*, gone: bool = False) -> Downstream:
    downstream = Downstream(Outbox(), request_id=b"id")
    downstream.gone = gone
    return downstream


class Request:
    """An attempt that was told to stop waiting."""

    def __init__(self) -> None:
        self._closed = 0

    def closed(self) -> int:
        return self._closed

    def close(self) -> None:
        self._closed += 1


async def test_a_request_is_kept_until_the_last_of_the_others_stops_waiting() -> None:
    loads, request = Loads(), Request()
    with loads.wait("m", ["a"], client()):
        with loads.wait("m", ["a"], client()):
            with loads.wait("m", ["a"], client(gone=True)) as wait:
                assert wait.keeps(request.close)
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert request.closed() == 0
    await asyncio.sleep(0)

    assert request.closed() == 1


async def test_who_leaves_the_line_for_the_backend_still_waits() -> None:
    loads, request = Loads(), Request()
    with loads.wait("m", ["a", "b"], client()), loads.wait("m", ["a"], client(gone=True)) as wait:
        assert wait.keeps(request.close)
    with loads.wait("m", ["a"], client()):
        await asyncio.sleep(0)
        assert request.closed() == 0
    await asyncio.sleep(0)

    assert request.closed() == 1


@pytest.mark.parametrize(("backend", "model"), [("b", "m"), ("a", "n")])
async def test_who_waits_for_something_else_keeps_nothing_open(backend: str, model: str) -> None:
    loads = Loads()
    with loads.wait(model, [backend], client()), loads.wait("m", ["a"], client(gone=True)) as wait:
        assert not wait.keeps(Request().close)


async def test_a_request_that_nobody_else_waits_for_is_not_kept() -> None:
    with Loads().wait("m", ["a"], client(gone=True)) as wait:
        assert not wait.keeps(Request().close)


async def test_the_request_of_a_client_that_is_still_there_is_not_kept() -> None:
    loads = Loads()
    with loads.wait("m", ["a"], client()), loads.wait("m", ["a"], client()) as wait:
        assert not wait.keeps(Request().close)


async def test_who_waits_later_keeps_nothing_of_before_open() -> None:
    loads, request = Loads(), Request()
    with loads.wait("m", ["a"], client()), loads.wait("m", ["a"], client(gone=True)) as wait:
        wait.keeps(request.close)
    await asyncio.sleep(0)

    with loads.wait("m", ["a"], client()):
        assert request.closed() == 1
    assert request.closed() == 1
