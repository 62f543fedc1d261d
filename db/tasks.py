"""Ending background tasks for certain."""

import asyncio
from typing import Any, Final

_AGAIN_S: Final = 0.02


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and return once all have ended.

    A cancellation that meets a Redis command at the wrong moment is lost: the client library waits with
    `asyncio.wait_for`, which before Python 3.12 takes the result and forgets the request. So it is repeated.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
