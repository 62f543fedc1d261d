"""A key ring between scripted stores."""

import asyncio
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import msgspec

from app.gateway.key_ring import KeyRing
from app.gateway.revocations import RevocationFollower, Revoked
from domain.values import Principal
from tests.support.clock import Clock

DIGESTS: Final = (b"new", b"old")


class Entry(msgspec.Struct, frozen=True):
    """What a store knows of a digest."""

    principal: Principal | None
    seq: int


class Row(msgspec.Struct, frozen=True):
    """One row of the sequence."""

    seq: int
    scope: str
    subject_id: UUID
    at: datetime = datetime(2026, 11, 23, tzinfo=UTC)
    usable: bool = True


class Shared:
    """The cache in Redis, as a dictionary; `gate` holds writes back."""

    def __init__(self, asked: list[str]) -> None:
        self._asked = asked
        self.entries: dict[bytes, tuple[Principal, int]] = {}
        self.gate: asyncio.Event | None = None

    async def get(self, digest: bytes) -> Entry | None:
        self._asked.append("redis")
        entry = self.entries.get(digest)
        return None if entry is None else Entry(*entry)

    async def put(self, digest: bytes, principal: Principal, seq: int) -> None:
        self._asked.append("store")
        if self.gate is not None:
            await self.gate.wait()
        self.entries[digest] = (principal, seq)


class World:
    """A key ring between a scripted Redis and a scripted Postgres, with its follower at number 10."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.clock = Clock()
        self.seq = 10
        self.stored: dict[tuple[bytes, ...], Principal] = {}
        self.before_answer: list[asyncio.Event] = []
        self.fails: Exception | None = None
        self.follower = RevocationFollower(latest=self._latest, since=self._since, now=self.clock)
        self.shared = Shared(self.asked)
        self.redis_is_away = False
        self.ring = KeyRing(
            find=self._find,
            shared=self.shared,
            revocations=self.follower,
            redis_is_away=lambda: self.redis_is_away,
            now=self.clock,
        )

    async def _latest(self) -> int:
        return self.seq

    async def _since(self, seq: int, limit: int) -> list[Revoked]:
        raise AssertionError(f"nobody reads rows in these tests: {seq}, {limit}")

    async def _find(self, digests: tuple[bytes, ...]) -> Entry:
        self.asked.append("postgres")
        found = Entry(self.stored.get(digests), self.seq)
        if self.before_answer:
            await self.before_answer.pop(0).wait()
        if self.fails is not None:
            raise self.fails
        return found

    def revoke(self) -> None:
        """Move the sequence on, here and in Postgres, without naming anybody."""
        self.seq += 1
        self.follower.seq = self.seq

    def revoke_subject(self, scope: str, subject: UUID | None, *, ended: bool = False) -> None:
        """Announce one row, which Postgres has too."""
        assert subject is not None
        self.seq += 1
        self.follower.take(self.seq - 1, self.seq, [Row(self.seq, scope, subject, usable=not ended)])

    async def find(self, digests: tuple[bytes, ...] = DIGESTS) -> Principal | None:
        return await self.ring.find_by_digest(digests)
