"""Who may end a running `up`: signals, and the death of the `uv run` that started it."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAUNCHER: Final = "uv"
ECHO_S: Final = 0.5
"""One Ctrl-C can reach us twice, from the terminal and through `uv run`, which passes it on."""


@contextmanager
def requests_to_stop(
    *, stop: Callable[[], None], hurry: Callable[[], None], echo_s: float = ECHO_S
) -> Iterator[None]:
    """Call `stop` at the first request to end and `hurry` at later ones. Needs the running loop.

    Requests within `echo_s` seconds of the first count as the same one.
    When `uv run` started us, its death is both.
    """
    loop = asyncio.get_running_loop()
    first_at: float | None = None

    def on_request() -> None:
        nonlocal first_at
        now = time.monotonic()
        if first_at is None:
            first_at = now
            stop()
        elif now - first_at >= echo_s:
            hurry()

    launcher = _launcher_descriptor()

    def on_death() -> None:
        if launcher is not None:
            loop.remove_reader(launcher)  # it stays readable: once is enough
        # A child whose parent dies ends within a second, and so do we.
        hurry()
        on_request()

    for number in SIGNALS:
        loop.add_signal_handler(number, on_request)
    if launcher is not None:
        # Signals to `uv run` are passed on to us, but SIGKILL is not: its death itself is the request.
        loop.add_reader(launcher, on_death)
    try:
        yield
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
        if launcher is not None:
            loop.remove_reader(launcher)
            os.close(launcher)


def _launcher_descriptor() -> int | None:
    parent = os.getppid()
    with suppress(OSError):
        if Path(f"/proc/{parent}/comm").read_text().strip() == LAUNCHER:
            return os.pidfd_open(parent)
    return None
