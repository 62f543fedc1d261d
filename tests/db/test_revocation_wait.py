"""Waiting for confirmations: all live processes, named if they keep silent, and never for longer than told."""

import asyncio

from db.revocation_wait import confirmation


class Processes:
    """What processes report, one dictionary per look; the last one stays."""

    def __init__(self, *looks: dict[str, int]) -> None:
        self._looks = list(looks)

    async def seen(self) -> dict[str, int]:
        return self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]


async def test_it_returns_when_the_last_process_has_acted() -> None:
    processes = Processes({"a": 6, "b": 7}, {"a": 6, "b": 7}, {"a": 8, "b": 7})

    found = await confirmation(7, seen=processes.seen, since=asyncio.get_running_loop().time())

    assert (found.confirmed, found.missing) == (("a", "b"), ())


async def test_a_process_that_goes_away_is_not_waited_for() -> None:
    processes = Processes({"a": 7, "b": 6}, {"a": 7})

    found = await confirmation(7, seen=processes.seen, since=asyncio.get_running_loop().time())

    assert (found.confirmed, found.missing) == (("a",), ())


async def test_a_silent_process_is_named_when_the_time_is_over() -> None:
    clock = iter([0.0, 1.0, 4.9, 5.0])

    found = await confirmation(
        7, seen=Processes({"b": 7, "a": 6, "c": 1}).seen, since=0.0, now=lambda: next(clock)
    )

    assert (found.confirmed, found.missing, found.seconds) == (("b",), ("a", "c"), 5.0)


async def test_nobody_to_confirm_is_said_so() -> None:
    found = await confirmation(7, seen=Processes({}).seen, since=0.0, now=lambda: 0.25)

    assert (found.confirmed, found.missing, found.seconds) == ((), (), 0.25)
