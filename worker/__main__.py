"""`python -m worker`: the job process."""

import os
import sys

from db.settings import SettingsError
from worker.main import run
from worker.settings import load_worker_settings


def main() -> int:
    """Run a worker from the environment; return the exit code."""
    try:
        run(load_worker_settings(os.environ))
    except SettingsError as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
