"""A program that holds a state directory with both servers, the way `up` does: to be killed by tests.

`python -m tests.support.holder DIRECTORY [UID]` prints one JSON line when both serve, and ends them in order
when its standard input closes. With UID it becomes that user first, after its imports.
"""

import encodings.idna  # noqa: F401 - loaded late otherwise, when our interpreter may be out of reach
import json
import os
import sys
from pathlib import Path

from app.embedded.errors import EmbeddedError
from app.embedded.postgres import PostgresServer
from app.embedded.process import unprivileged_account
from app.embedded.server import start
from app.embedded.state_dir import locked
from app.embedded.valkey import ValkeyServer


def hold(directory: Path) -> None:
    with locked(directory) as state:
        secrets, ports, account = state.secrets(), state.ports(), unprivileged_account()
        postgres = PostgresServer(
            state.postgres_data, password=secrets.postgres_password, account=account, lock_fd=state.lock_fd
        )
        valkey = ValkeyServer(
            state.valkey_data, password=secrets.valkey_password, account=account, lock_fd=state.lock_fd
        )
        tables = start(postgres, output=sys.stderr.fileno(), preferred_port=ports.get("postgres"))
        keys = start(valkey, output=sys.stderr.fileno(), preferred_port=ports.get("valkey"))
        state.remember({"postgres": tables.port, "valkey": keys.port})
        report = {
            "postgres": {"url": postgres.url(tables.port, "postgres"), "pid": tables.child.pid},
            "valkey": {"url": valkey.url(keys.port), "pid": keys.child.pid},
        }
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
        keys.stop()
        tables.stop()


def main() -> int:
    if len(sys.argv) > 2:
        uid = int(sys.argv[2])
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    try:
        hold(Path(sys.argv[1]))
    except EmbeddedError as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
