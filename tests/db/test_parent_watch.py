"""A child of a process that was killed does not live on."""

import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import pytest

from db.parent_watch import exit_with_parent

_CHILD = "from db.parent_watch import exit_with_parent as e; import time; e(); print('up', flush=True); time.sleep(60)"
_PARENT = (
    "import subprocess, sys, time;"
    f"child = subprocess.Popen([sys.executable, '-c', {_CHILD!r}]);"
    "print(child.pid, flush=True);"
    "time.sleep(60)"
)


def test_a_child_ends_within_a_second_of_its_parents_death() -> None:
    parent = subprocess.Popen((sys.executable, "-c", _PARENT), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout as output:
        child = os.pidfd_open(int(output.readline()))
        assert output.readline() == b"up\n"

        parent.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        ended, _, _ = select.select([child], [], [], 5)

    os.close(child)
    parent.wait()
    assert ended
    assert time.monotonic() - killed_at < 1.5


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_multiprocessing_child_lives_as_long_as_its_parent(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    mine, theirs = context.Pipe()
    child = context.Process(target=_answer_under_watch, args=(theirs,))
    child.start()
    theirs.close()

    # Two looks of the watch happen before it answers.
    assert mine.poll(30)
    assert mine.recv() == "alive"
    child.join(10)
    assert child.exitcode == 0


def _answer_under_watch(pipe: Connection) -> None:
    exit_with_parent()
    time.sleep(0.6)
    pipe.send("alive")
