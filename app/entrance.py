"""Where handlers, which are made before anything is open, find what the lifespan opens."""

from typing import Final, Generic, TypeVar

T = TypeVar("T")


class Entrance(Generic[T]):
    """Empty until the lifespan has started; no request arrives before that."""

    def __init__(self, name: str) -> None:
        self._name: Final = name
        self._within: T | None = None

    def open(self, within: T) -> None:
        """Let requests in."""
        self._within = within

    def within(self) -> T:
        """Return what runs.

        Raises
        ------
        RuntimeError
            The lifespan has not started, which no server lets happen.
        """
        if self._within is None:
            raise RuntimeError(f"the {self._name} has not started")
        return self._within
