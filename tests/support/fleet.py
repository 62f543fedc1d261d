"""Three simulated Ollamas behind one gateway, and how to start each test with all of them on equal terms."""

import asyncio
import time
from collections.abc import Mapping
from typing import Final

import httpx

from tests.support.asking import NATIVE_WHOLE, ask
from tests.support.gateway import READY_WITHIN_S, Gateway, UsageRow, request_id
from tests.support.ollama import SeenRequest, SimulatedOllama

TOKENS_PER_ANSWER: Final = 12
SILENCE_S: Final = 1.0
TOKEN: Final = "token-of-b"
DESCRIBED: Final[Mapping[str, Mapping[str, object]]] = {
    "a": {"deadlines": {"first_byte_s": SILENCE_S, "idle_s": SILENCE_S}},
    "b": {"auth_token": TOKEN},
    "c": {"allow_cloud": True},
}

COMMON: Final = "llama3.2"
"""Hosted by all three."""
DUO: Final = "duo:7b"
"""Hosted by a and b."""
SOLO: Final = "solo:1b"
"""Hosted by a only."""
LONER: Final = "loner:1b"
"""Hosted by c only."""
PACED: Final = "paced:1b"
"""Hosted by c only, for the one test that needs to know how fast a model was seen."""
THINKER: Final = "deepseek-r1:8b"
"""Hosted by c only; thinks before it answers."""
EMBEDDER: Final = "nomic-embed-text"
"""Hosted by all three."""

_POLLED: Final = "/api/tags"
_HOSTED: Final = {
    "a": f"{COMMON}:latest,{DUO},{SOLO},{EMBEDDER}:latest",
    "b": f"{COMMON}:latest,{DUO},{EMBEDDER}:latest",
    "c": f"{COMMON}:latest,{LONER},{PACED},{THINKER},{EMBEDDER}:latest",
}


def started_fleet() -> tuple[SimulatedOllama, ...]:
    """Start the three. Backend b wants a token."""
    return tuple(
        SimulatedOllama.start(
            name=name, models=models, tokens=TOKENS_PER_ANSWER, auth_token=TOKEN if name == "b" else None
        )
        for name, models in _HOSTED.items()
    )


class Fleet:
    """The backends a, b and c of a gateway; priority is in this order."""

    def __init__(self, gateway: Gateway, client: httpx.AsyncClient) -> None:
        self._gateway = gateway
        self._client = client
        self._backends = tuple(gateway.backends.values())
        self.a, self.b, self.c = self._backends
        self._silent: set[str] = set()

    async def even_out(self) -> None:
        """Let all three cool down alike: candidates that all cool are tried in the operator's order.

        Quicker than waiting for the poll that would end each one's cooldown. For the rest of the test, or until
        `rest`, polls get no answer, because one that ends some cooldowns before others would change the order.
        """
        await asyncio.gather(*map(self._prepare_to_fail, self._backends))
        reply = await ask(self._client, NATIVE_WHOLE, COMMON)
        assert reply.status_code == httpx.codes.BAD_GATEWAY
        await asyncio.gather(*(backend.clear() for backend in self._backends))

    async def _prepare_to_fail(self, backend: SimulatedOllama) -> None:
        if backend.name in self._silent:
            # Not a moment without that order: one poll answered is a cooldown ended.
            await backend.withdraw(but=_POLLED)
        else:
            await backend.withdraw()
            await backend.order("hang", path=_POLLED, count=None)
            self._silent.add(backend.name)
        # A used connection hides a death without a byte by trying a new one; this it does not hide.
        await backend.order("garbage", model=COMMON)

    async def rest(self) -> None:
        """Return once a new poll of all three has ended every cooldown; withdraws all faults."""
        for backend in self._backends:
            await backend.withdraw()
            await backend.clear()
        self._silent.clear()
        async with asyncio.timeout(READY_WITHIN_S):
            not_yet = time.monotonic()
            while not await self._are_all_polled():
                not_yet = time.monotonic()
        await self._gateway.polled_since(not_yet)

    async def _are_all_polled(self) -> bool:
        stats = [await backend.stats() for backend in self._backends]
        return all(_POLLED in each.requests for each in stats)

    async def row(self, reply: httpx.Response) -> UsageRow:
        """Return the row of the request that got this reply."""
        (row,) = await self.rows(reply)
        return row

    async def rows(self, *replies: httpx.Response) -> list[UsageRow]:
        """Return the rows of the requests that got these replies, in their order."""
        ids = [request_id(reply) for reply in replies]
        rows = {row.request_id: row for row in await self._gateway.rows(ids)}
        return [rows[number] for number in ids]

    async def asked(self) -> dict[str, list[SeenRequest]]:
        """Return what each backend has seen."""
        return {backend.name: await backend.requests() for backend in self._backends}

    async def attempts(self) -> str:
        """Return the names of the backends that saw a request, once per request, a before b before c."""
        return "".join(name * len(seen) for name, seen in (await self.asked()).items())
