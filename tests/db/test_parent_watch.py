"""A child of a process that was killed does not live on."""

import os
import select
import signal
import subprocess
import sys
import time

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
