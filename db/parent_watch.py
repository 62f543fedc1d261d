"""End with the parent: a process started by another must not live on when that one is killed."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_LOOK_INTERVAL_S = 0.25


def exit_with_parent() -> None:
    """Arrange that this process is killed within a second after its parent died, however that happened.

    Call it once, from the main thread, as early as possible. Nothing is cleaned up then: whoever wants an
    orderly end signals the process itself.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The kernel's signal comes when the parent's *thread* ends and only on Linux; looking covers the rest,
    # a parent that died before the line above included.
    threading.Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()


def _watch(parent: int) -> None:
    # Where multiprocessing started us it knows better: its parent may be another than the system's (a fork
    # server), and may have died before we looked.
    starter = multiprocessing.parent_process()
    while os.getppid() == parent and (starter is None or starter.is_alive()):
        time.sleep(_LOOK_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGKILL)
