"""What one process may use of something limited while the processes cannot ask each other.

The shares of all processes add up to the whole: what does not divide evenly goes to the first ones in the order of
their names, which every process knows.
"""

from collections.abc import Collection

import msgspec


class Shares(msgspec.Struct, frozen=True):
    """This process's place among the live ones: it is number `rank`, counted from 0, of `processes`."""

    processes: int = 1
    rank: int = 0

    @classmethod
    def of(cls, process: str, others: Collection[str]) -> "Shares":
        """Return the place of one process among others, which may or may not name it."""
        names = sorted({process, *others})
        return cls(len(names), names.index(process))

    def share(self, limit: int) -> int:
        """Return this process's part of a limit; 0 if there is less than one for each and others come first."""
        each, rest = divmod(max(limit, 0), self.processes)
        return each + (self.rank < rest)
