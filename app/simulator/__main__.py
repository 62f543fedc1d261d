"""`python -m app.simulator`."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

import uvloop

from app.simulator.options import from_command_line
from app.simulator.server import Simulator, announce

_PARENT_CHECK_S: Final = 0.25


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; SIGUSR1 makes a refusing server listen again."""
    parent = os.getppid()
    options = from_command_line(sys.argv[1:] if arguments is None else arguments)
    loop = uvloop.new_event_loop()
    simulator = Simulator(options, loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, loop.stop)
    loop.add_signal_handler(signal.SIGUSR1, simulator.accept_again)
    if options.exit_with_parent:
        _stop_with(parent, loop)
    simulator.listener.open()
    host = f"[{options.host}]" if ":" in options.host else options.host
    facts = {"name": options.name, "url": f"http://{host}:{simulator.listener.port}", "pid": os.getpid()}
    # From inside the loop: a signal that comes before it runs would be lost.
    loop.call_soon(announce, facts)
    loop.run_forever()
    return 0


def _stop_with(parent: int, loop: asyncio.AbstractEventLoop) -> None:
    """Stop the loop once the parent is gone.

    Polled, because the kernel's own signal fires already when the *thread* ends that started us.
    """
    if os.getppid() != parent:
        loop.stop()
    else:
        loop.call_later(_PARENT_CHECK_S, _stop_with, parent, loop)


if __name__ == "__main__":
    sys.exit(main())
