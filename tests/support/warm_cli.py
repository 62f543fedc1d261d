"""The command line for tests that run it often: one program has imported everything, and forks for each command.

`python -m tests.support.warm_cli SOCKET` listens there; `tests/support/stand_in/neuronetz-gateway` asks it.
"""

import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from app.cli.commands import run

_IMPORTED: Final = (
    "app.cli.control.database",
    "app.doctor.examination",
    "app.reconcile.survey",
    "app.settings",
    "db.migrate",
    "db.restore_fence",
    "worker.settings",
)
_CALL_BYTES: Final = 262_144


def main(path: Path) -> None:
    """Answer until the process is ended."""
    for module in _IMPORTED:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        while True:
            asker, _ = listener.accept()
            if os.fork() == 0:
                _answer(asker)
            asker.close()


def _answer(asker: socket.socket) -> None:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        text, files, _, _ = socket.recv_fds(asker, _CALL_BYTES, 3)
        for number, file in enumerate(files):
            os.dup2(file, number)
        call = json.loads(text)
        os.chdir(call["directory"])
        os.environ.clear()
        os.environ.update(call["environ"])
        code = run(call["words"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        asker.sendall(str(code).encode())
        os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
