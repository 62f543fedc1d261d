"""How a caller stands with its limits, for reading alone: nothing is taken and nothing decided."""

import msgspec

from domain.limits import LimitKind


class LimitUse(msgspec.Struct, frozen=True):
    """One limit and how much of it is in use.

    `scope` is `tenant` or `key`. `used` is settled, `reserved` is held for requests that run; None where too many
    run to look at each, `used` then holds both. `reset_s` is when the use has drained, 0 where it does not.
    """

    kind: LimitKind
    scope: str
    limit: int
    used: int
    reserved: int | None
    reset_s: float
