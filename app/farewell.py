"""What the parent tells its app processes before it has them stop (`app/server.py`, `app/drain.py`)."""

import signal
from typing import Final

FAREWELL: Final = signal.SIGUSR1
LONGEST_FAREWELL_S: Final = 0.5


def farewell_s(drain_s: float) -> float:
    """Return how long before SIGTERM that is, given the time that running streams then get to finish."""
    return min(LONGEST_FAREWELL_S, drain_s / 20)
