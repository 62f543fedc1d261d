"""One supervised process: started, watched, started again when it dies, ended in order."""

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

from app.embedded.errors import ChildFailed
from app.embedded.log import Log
from app.embedded.process import Command, kill, spawn

FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 15.0
STEADY_AFTER_S = 30.0
LAST_WORDS_TIMEOUT_S = 1.0


class Child:
    """A process of the stack.

    Parameters
    ----------
    name : as it stands in the log.
    command : how to start it; asked before every start.
    grace_s : how long it may take to end by itself when asked to.
    least_grace_s : the same when somebody is in a hurry.
    first_delay_s : pause before the first restart; it doubles with each death that follows soon.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], Command],
        *,
        log: Log,
        grace_s: float,
        least_grace_s: float = 0.0,
        first_delay_s: float = FIRST_DELAY_S,
    ) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._grace_s = grace_s
        self._least_grace_s = least_grace_s
        self._first_delay_s = first_delay_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stop_signal = signal.SIGTERM
        self._reader: threading.Thread | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The number of the process that runs now or ran last."""
        if self._process is None:
            raise ChildFailed(f"{self.name} was never started.")
        return self._process.pid

    def start(self) -> None:
        """Start the process. Main thread only."""
        command = self._command()
        self.adopt(spawn(command, output=subprocess.PIPE), command)

    def adopt(self, process: subprocess.Popen[bytes], command: Command) -> None:
        """Take over a process that was just started by that command; its output is ours to read."""
        self._process = process
        self._stop_signal = command.stop_signal
        self._reader = self._log.follow(self.name, process.stdout)

    def keep_alive(self) -> None:
        """From now on start the process again whenever it dies."""
        self._watch = asyncio.create_task(self._restart_on_death(), name=f"keep-{self.name}")

    async def ended(self) -> None:
        """Wait until the process has ended. It is not reaped, so its number stays its own."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(descriptor, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    async def fail_on_death(self) -> None:
        """Wait for the process to end, which must not happen while the stack starts.

        Raises
        ------
        ChildFailed
            It ended.
        """
        await self.ended()
        raise ChildFailed(f"{self.name} ended while starting ({self._reap()}); its own words are in the log.")

    async def stop(self, hurry: asyncio.Event) -> None:
        """End the process: by its stop signal, then by force after its grace, which `hurry` cuts short."""
        if self._watch is not None:
            self._watch.cancel()
        if self._process is None:
            return
        if self._process.returncode is None:
            self._process.send_signal(self._stop_signal)
            if not await self._ended_in_time(hurry):
                self._log.line("up", f"{self.name} did not end in time and is killed")
        self._reap()

    async def _ended_in_time(self, hurry: asyncio.Event) -> bool:
        waits = [asyncio.create_task(self.ended()), asyncio.create_task(hurry.wait())]
        try:
            await asyncio.wait(waits, timeout=self._grace_s, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(waits[:1], timeout=self._least_grace_s)
            return waits[0].done()
        finally:
            for wait in waits:
                wait.cancel()

    async def _restart_on_death(self) -> None:
        delay_s = self._first_delay_s
        while True:
            started_at = time.monotonic()
            await self.ended()
            if time.monotonic() - started_at > STEADY_AFTER_S:
                delay_s = self._first_delay_s
            self._log.line("up", f"{self.name} ended ({self._reap()}); next start in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, max(LONGEST_DELAY_S, self._first_delay_s))
            try:
                self.start()
            except OSError as exc:
                self._log.line("up", f"{self.name} cannot be started: {exc.strerror}")

    def _reap(self) -> str:
        if self._process is None:
            return "never started"
        kill(self._process)  # what it may have left in its session ends with it
        if self._reader is not None:
            self._reader.join(LAST_WORDS_TIMEOUT_S)
        code = self._process.returncode
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
