"""What is measured of revocations: how late this process acts, how far it is, and what it cut."""

from datetime import UTC, datetime

from app.gateway.exchanges import CutReason
from app.gateway.revocations import Revoked
from app.metrics import Metrics


class RevocationFigures:
    """Fills the metrics.

    The lag is this host's clock minus the time in the row, which the database's clock gave moments before the
    commit. Clocks that disagree show in it; a lag that would be negative counts as none.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def acted(self, row: Revoked) -> None:
        """Count the lag of one row."""
        lag_s = (datetime.now(UTC) - row.at).total_seconds()
        self._metrics.revocation_lag.observe(max(lag_s, 0.0))

    def reached(self, seq: int) -> None:
        """Show how far the process is."""
        self._metrics.revocation_seq.set(seq)

    def cut(self, reason: CutReason) -> None:
        """Count one exchange that was cut."""
        self._metrics.add(self._metrics.revocation_cuts, (reason.value,))
