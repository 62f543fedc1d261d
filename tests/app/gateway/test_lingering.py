"""How long, and for how many, a process reads what it has refused already."""

import asyncio
from typing import Any

import pytest

from app.gateway import lingering
from app.gateway.lingering import Lingering


async def silent() -> Any:
    await asyncio.Event().wait()


async def test_more_at_once_than_the_bound_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "MOST_CLIENTS", 1)
    clients = Lingering()
    first = asyncio.create_task(clients.let_finish(silent))
    await asyncio.sleep(0)

    second = asyncio.create_task(clients.let_finish(silent))
    await asyncio.sleep(0)

    assert (first.done(), second.done()) == (False, True)
    await first


async def test_no_more_than_so_many_bytes_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "MOST_BYTES", 30)
    asked = 0

    async def endless() -> Any:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b" " * 10, "more_body": True}

    await Lingering().let_finish(endless)

    assert asked == 3
