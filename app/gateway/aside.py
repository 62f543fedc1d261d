"""Work that would stop the event loop: done in steps on it, or in a thread beside it.

A thread helps where the work gives the interpreter up now and then, as reading an object does after each object in
it. Where one call goes over many megabytes, the loop waits for it wherever it runs; such work is cut into steps.
"""

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

STRETCH_S: Final = 0.001
"""How long steps go on before the event loop has its turn."""

Result = TypeVar("Result")


async def in_steps(steps: Generator[None, None, Result]) -> Result:
    """Run a generator to its end and return what it returns, letting the event loop go on in between."""
    until = time.perf_counter() + STRETCH_S
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        if time.perf_counter() >= until:
            await asyncio.sleep(0)
            until = time.perf_counter() + STRETCH_S


class Aside:
    """One thread, for one piece of work after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._loop = asyncio.get_running_loop()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do the work and return its result. Whoever is cancelled meanwhile hears of it once the work has ended.

        So what the work holds is not given back before.
        """
        working = self._loop.run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(working)
        finally:
            while not working.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait((working,))
            if not working.cancelled():
                working.exception()  # whoever was cancelled does not hear of a failure

    def close(self) -> None:
        """Let the thread end once it has nothing more to do."""
        self._thread.shutdown(wait=False)
