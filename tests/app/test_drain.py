"""What happens at the door while an app process ends. The journeys see the rest of it (`test_behind_proxies.py`)."""

import subprocess
import sys

import pytest

from tests.support.repository import ROOT

# A program of its own: what it does to its listening sockets cannot be undone.
_AT_THE_DOOR = """
import socket
from app.drain import hold_new_connections_back

listener = socket.create_server(("127.0.0.1", 0))
early = socket.create_connection(listener.getsockname())
hold_new_connections_back()
late = socket.socket()
late.settimeout(0.2)
try:
    late.connect(listener.getsockname())
except TimeoutError:
    print("the late one waits")
early.sendall(b"the early one is heard")
accepted, _ = listener.accept()
print(accepted.recv(100).decode())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere connections cannot be held back")
def test_whoever_has_a_connection_is_heard_and_whoever_has_none_waits_outside() -> None:
    done = subprocess.run(
        (sys.executable, "-c", _AT_THE_DOOR), cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines() == ["the late one waits", "the early one is heard"]
