"""The jobs that processes ask the worker for: stable names, fixed keys and limits. A name is never reused."""

from typing import Final

import msgspec


class JobOrder(msgspec.Struct, frozen=True):
    """One kind of job as it stands in the queue.

    While a job of the same `key` waits or runs, ordering it again does nothing. `timeout_s` bounds one run.
    `heartbeat_s` is the silence after which its worker counts as dead and the job runs again elsewhere.
    No job is tried again after a failure: its next order is at most a tick away and does the same.
    """

    name: str
    key: str
    timeout_s: int
    heartbeat_s: int


# The poll ends by its own deadlines, of which the operator may set up to 300 s; this is only the last resort.
DISCOVERY_POLL: Final = JobOrder("discovery.poll", key="discovery.poll", timeout_s=360, heartbeat_s=3)
DRAINS_FOLD: Final = JobOrder("drains.fold", key="drains.fold", timeout_s=10, heartbeat_s=3)
REVOCATION_FANOUT: Final = JobOrder("revocation.fanout", key="revocation.fanout", timeout_s=10, heartbeat_s=3)
USAGE_ACCOUNT: Final = JobOrder("usage.account", key="usage.account", timeout_s=60, heartbeat_s=3)
USAGE_ROLL_UP: Final = JobOrder("usage.roll_up", key="usage.roll_up", timeout_s=600, heartbeat_s=3)
USAGE_PRUNE: Final = JobOrder("usage.prune", key="usage.prune", timeout_s=600, heartbeat_s=3)
KEYS_EXPIRE: Final = JobOrder("keys.expire", key="keys.expire", timeout_s=10, heartbeat_s=3)
LEASES_SWEEP: Final = JobOrder("leases.sweep", key="leases.sweep", timeout_s=10, heartbeat_s=3)

EVERY_JOB: Final = (
    DISCOVERY_POLL,
    DRAINS_FOLD,
    REVOCATION_FANOUT,
    USAGE_ACCOUNT,
    USAGE_ROLL_UP,
    USAGE_PRUNE,
    KEYS_EXPIRE,
    LEASES_SWEEP,
)
"""All of them are also ordered by the worker itself, each in its own rhythm."""
