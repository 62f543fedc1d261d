import asyncio
import io
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.embedded.child import Child
from app.embedded.errors import ChildFailed
from app.embedded.log import Log
from app.embedded.process import Command, is_alive
from tests.support.waiting import until

WITHIN_S = 10.0
IDLE = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + IDLE


@asynccontextmanager
async def child_of(
    program: str, *, grace_s: float = WITHIN_S, first_delay_s: float = 0.0
) -> AsyncIterator[tuple[Child, io.StringIO]]:
    """Run a Python program as a child that has come up; end it at once at the end."""
    output = io.StringIO()
    command = Command(argv=(sys.executable, "-c", program), env=dict(os.environ))
    child = Child("child", lambda: command, log=Log(output), grace_s=grace_s, first_delay_s=first_delay_s)
    child.start()
    try:
        yield child, output
    finally:
        in_a_hurry = asyncio.Event()
        in_a_hurry.set()
        await child.stop(in_a_hurry)


async def says(output: io.StringIO, text: str) -> None:
    await until(lambda: text in output.getvalue(), within_s=WITHIN_S)


async def test_a_child_that_died_is_started_again() -> None:
    async with child_of(IDLE) as (child, output):
        child.keep_alive()
        await says(output, "| up")
        first = child.pid

        os.kill(first, signal.SIGKILL)

        await says(output, "child ended (signal SIGKILL); next start in 0 s")
        await until(lambda: child.pid != first, within_s=WITHIN_S)
        assert is_alive(child.pid)


async def test_each_death_that_follows_soon_doubles_the_pause() -> None:
    async with child_of("raise SystemExit(3)", first_delay_s=0.01) as (child, output):
        child.keep_alive()

        for pause in ("0.01", "0.02", "0.04"):
            await says(output, f"child ended (exit code 3); next start in {pause} s")


async def test_a_child_ends_when_asked() -> None:
    async with child_of(IDLE) as (child, output):
        await says(output, "| up")
        async with asyncio.timeout(WITHIN_S / 2):
            await child.stop(asyncio.Event())

        assert not is_alive(child.pid)
        assert "killed" not in output.getvalue()


async def test_a_child_that_does_not_end_in_time_is_killed() -> None:
    async with child_of(STUBBORN, grace_s=0.05) as (child, output):
        await says(output, "| up")
        await child.stop(asyncio.Event())

        assert not is_alive(child.pid)
        assert "child did not end in time and is killed" in output.getvalue()


async def test_a_hurry_cuts_the_waiting_short() -> None:
    async with child_of(STUBBORN) as (child, output):
        await says(output, "| up")
        hurry = asyncio.Event()
        stopping = asyncio.create_task(child.stop(hurry))

        hurry.set()

        async with asyncio.timeout(WITHIN_S / 2):
            await stopping
        assert not is_alive(child.pid)


async def test_a_death_during_the_start_says_how_it_came() -> None:
    async with child_of("raise SystemExit(3)") as (child, _):
        with pytest.raises(ChildFailed, match="exit code 3"):
            await child.fail_on_death()


async def test_what_a_child_left_in_its_session_ends_with_it() -> None:
    program = (
        "import os, signal\npid = os.fork()\nif pid: print('left', pid, flush=True)\nelse: signal.pause()"
    )
    async with child_of(program) as (child, output):
        await says(output, "left ")
        with pytest.raises(ChildFailed):
            await child.fail_on_death()

        left = int(output.getvalue().rpartition("left ")[2])
        await until(lambda: not is_alive(left), within_s=WITHIN_S)
