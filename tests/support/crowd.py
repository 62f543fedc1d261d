"""Clients of every kind that ask all the time, some of which leave; each keeps what it was told."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from tests.support.gateway import Key
from tests.support.leaving_client import LeavingClient, content_records, leaving_client

GENERATORS: Final = ("llama3.2", "qwen3:8b")
EMBEDDER: Final = "nomic-embed-text"
DEADLINE_S: Final = 25.0
LEAVES: Final = 0.2
PAUSE_S: Final = 0.1
OK: Final = 200

_SAID: Final = "Say something about the sea."


class Kind(msgspec.Struct, frozen=True):
    """One way to ask."""

    path: str
    streamed: bool = False

    @property
    def native(self) -> bool:
        """Whether it is Ollama's own API."""
        return self.path.startswith("/api/")

    def body(self, draw: random.Random) -> dict[str, Any]:
        """Return a request of this kind."""
        if "embed" in self.path:
            return {"model": EMBEDDER, "input": [_SAID] * draw.randint(1, 3)}
        words = draw.randint(1, 40)
        asked = (
            {"messages": [{"role": "user", "content": _SAID}]} if "chat" in self.path else {"prompt": _SAID}
        )
        cap: dict[str, Any] = {"options": {"num_predict": words}} if self.native else {"max_tokens": words}
        return {"model": draw.choice(GENERATORS), "stream": self.streamed, **asked, **cap}


EMBEDDING: Final = Kind("/api/embed")
KINDS: Final = (
    Kind("/api/chat", streamed=True),
    Kind("/v1/chat/completions", streamed=True),
    Kind("/api/generate", streamed=True),
    Kind("/v1/completions", streamed=True),
    Kind("/api/chat"),
    Kind("/v1/chat/completions"),
    EMBEDDING,
    Kind("/v1/embeddings"),
)


class Told(msgspec.Struct):
    """What one client was told. Moments are monotonic seconds; `status` 0: no head came.

    `end` is one of: complete, left (by the client itself), broken (the connection), refused (no connection),
    late (nothing more within `DEADLINE_S`). `records` counts those that carry a token. What an accepted request was
    answered is not kept, only whether an error was among it.
    """

    kind: Kind
    key: Key
    began: float
    request_id: UUID | None = None
    status: int = 0
    head_at: float | None = None
    ended: float = 0.0
    content: bytes = b""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    end: str = "late"
    records: int = 0
    has_error: bool = False

    @property
    def name(self) -> str:
        """How it went, in a word or two."""
        return self.end if self.status in {0, OK} else f"{self.status}"


class Crowd:
    """So many clients, each of which asks one thing after the other."""

    def __init__(self, url: str, keys: Sequence[Key], *, size: int, seed: int) -> None:
        self._url = url
        self._keys = keys
        self._size = size
        self._seed = seed
        self._over = False
        self.told: list[Told] = []

    async def run(self) -> None:
        """Ask until `go_home` was called and the last answer is here."""
        await asyncio.gather(*(self._one(random.Random(self._seed + place)) for place in range(self._size)))

    async def come_back(self) -> None:
        """Ask with each key until it is served again."""
        draw = random.Random(self._seed)
        for key in self._keys:
            async with asyncio.timeout(DEADLINE_S):
                while (await self._tell(Told(EMBEDDING, key, time.monotonic()), draw)).status != OK:  # noqa: ASYNC110 - only asking tells
                    await asyncio.sleep(PAUSE_S)

    def go_home(self) -> None:
        """Let nobody ask again."""
        self._over = True

    def count(self) -> Counter[str]:
        """Return how the requests went."""
        return Counter(one.name for one in self.told)

    async def _one(self, draw: random.Random) -> None:
        while not self._over:
            await self._tell(Told(draw.choice(KINDS), draw.choice(self._keys), time.monotonic()), draw)
            await asyncio.sleep(draw.uniform(0, 2 * PAUSE_S))

    async def _tell(self, told: Told, draw: random.Random) -> Told:
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._ask(told, draw)
        except TimeoutError:
            pass
        except (EOFError, ConnectionError):
            told.end = "broken" if told.end == "late" else told.end
        told.ended = time.monotonic()
        told.records = content_records(told.content)
        told.has_error = b'"error"' in told.content
        if told.status == OK:
            told.content, told.headers = b"", {}
        self.told.append(told)
        return told

    async def _ask(self, told: Told, draw: random.Random) -> None:
        patience = draw.randint(0, 12) if draw.random() < LEAVES else None
        told.end = "refused"
        async with leaving_client(self._url) as client:
            told.end = "late"
            await client.post(told.kind.path, told.kind.body(draw), key=told.key.text)
            if patience == 0:
                await asyncio.sleep(draw.uniform(0, PAUSE_S))
                told.end = "left"
                return
            told.status, told.headers = await client.head()
            told.head_at, told.request_id = time.monotonic(), client.request_id
            if "content-length" in told.headers:
                told.content = await client.body(told.headers)
                told.end = "complete"
            else:
                told.end = await self._listen(client, told, patience)

    @staticmethod
    async def _listen(client: LeavingClient, told: Told, patience: int | None) -> str:
        while piece := await client.chunk():
            told.content += piece
            if patience is not None:
                patience -= 1
                if patience == 0:
                    return "left"
        return "complete"
