"""Words that stand nowhere else, each planted in one place, to be looked for in all others."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine


class Kind(Enum):
    """What a canary stands for, which decides where it may be found."""

    SECRET = "secret"
    PROMPT = "prompt"
    CLIENT = "client"
    TOPOLOGY = "topology"
    UPSTREAM = "upstream"
    UPSTREAM_TAIL = "tail"


class Aviary:
    """Hands out canaries, and tells which of them are in a text."""

    def __init__(self) -> None:
        self.of: dict[Kind, list[str]] = defaultdict(list)

    def __len__(self) -> int:
        return sum(map(len, self.of.values()))

    def new(self, kind: Kind) -> str:
        """Return a word that nobody has said before."""
        word = f"cnry{kind.value}{len(self.of[kind])}z"
        self.of[kind].append(word)
        return word

    def adopt(self, kind: Kind, word: str) -> str:
        """Look for a word that somebody else made up."""
        self.of[kind].append(word)
        return word

    def in_(self, content: str, *kinds: Kind) -> list[str]:
        """Return the canaries of these kinds (none named: of every kind) that a text holds."""
        lower = content.lower()
        return [word for kind in kinds or tuple(Kind) for word in self.of[kind] if word.lower() in lower]


async def all_of_redis(redis: Redis) -> str:
    """Return every key of a Redis database with its whole value."""
    readers: Mapping[Any, Any] = {
        b"string": redis.get,
        b"hash": redis.hgetall,
        b"set": redis.smembers,
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
        b"stream": redis.xrange,
    }
    found = []
    async for key in redis.scan_iter():
        kind = await redis.type(key)
        if kind in readers:
            found.append(f"{key} {await readers[kind](key)}")
    return "\n".join(found)


async def all_of_postgres(engine: AsyncEngine) -> str:
    """Return every row of every table as text."""
    async with engine.connect() as connection:
        tables: Iterable[str] = (
            await connection.scalars(
                text("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'")
            )
        ).all()
        rows: list[str] = []
        for table in tables:
            found = await connection.scalars(text(f"SELECT row_to_json(t)::text FROM {table} t"))
            rows += found.all()
        return "\n".join(rows)
