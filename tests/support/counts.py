"""How often a repeating test repeats: a little in the suite, in full under `just soak`."""

import os


def count(suite: int, soak: int) -> int:
    """Return `suite`, or `soak` where the environment says NNG_SOAK=1."""
    return soak if os.environ.get("NNG_SOAK") == "1" else suite
