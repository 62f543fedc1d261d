"""Bodies of which texts were lifted, whole at once."""

from domain.lifting import SHORTEST_BYTES, Lifted, lift


def lifted(body: bytes, *, shortest: int = SHORTEST_BYTES) -> Lifted:
    """Return a body without its texts in base64 of at least so many bytes."""
    steps = lift(body, shortest=shortest)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Lifted = end.value
            return found
