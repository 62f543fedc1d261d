"""How many wrong keys one client address may present, counted for all processes together by Redis's clock."""

from pathlib import Path
from typing import Final, cast

from db.redis.multiplex import MultiplexedRedis, RedisScript

UNDECIDED_MS: Final = 10_000
"""How long a try counts whose outcome nobody has told: its process may have died."""

_SCRIPT: Final = RedisScript(Path(__file__).with_name("login_budget.lua").read_text(encoding="utf-8"))
_PROVEN: Final = -1


class LoginBudgetStore:
    """Every method raises `RedisError` when Redis cannot answer.

    `holder` names who shares a budget, `proof` stands for one key; it is a digest, never a key.
    """

    def __init__(self, redis: MultiplexedRedis) -> None:
        self._redis = redis

    async def take(self, holder: str, try_id: bytes, proof: bytes, *, budget: int) -> int | None:
        """Take a place for one try.

        Returns
        -------
        int or None
            0: taken. None: the key has worked from here, no place is needed. Otherwise the milliseconds until a
            place is free; nothing was taken.
        """
        answer = await self._run(holder, "take", try_id, proof, budget, UNDECIDED_MS)
        return None if answer == _PROVEN else answer

    async def fail(self, holder: str, try_id: bytes, proof: bytes, *, window_ms: int) -> None:
        """Have a try count for the whole window: its key was wrong, and is not believed any more."""
        await self._run(holder, "fail", try_id, proof, window_ms)

    async def passed(self, holder: str, try_id: bytes, proof: bytes, *, believed_ms: int) -> None:
        """Give a place back and remember that this key works from here."""
        await self._run(holder, "pass", try_id, proof, believed_ms)

    async def release(self, holder: str, try_id: bytes) -> None:
        """Give a place back: whether the key is right could not be found out."""
        await self._run(holder, "release", try_id, b"")

    async def _run(self, holder: str, act: str, *args: bytes | int) -> int:
        prefix = f"nng:{{login:{holder}}}"
        return cast(
            "int", await self._redis.run(_SCRIPT, (f"{prefix}:tries", f"{prefix}:proven"), act, *args)
        )
