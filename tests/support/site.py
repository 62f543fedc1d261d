"""Four app processes behind two addresses, one worker, and callers with kept-alive connections to all of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import asyncpg
import httpx
from pydantic import SecretStr
from redis.asyncio import Redis

from db.redis.connection import connect_patient
from db.redis.revocation_channel import seen_by
from tests.support.asking import NATIVE_WHOLE, Shape
from tests.support.gateway import READY_WITHIN_S, Gateway, Key
from tests.support.homes import Home
from tests.support.ollama import SimulatedOllama
from tests.support.processes import served_by

PROCESSES: Final = 4
CONNECTIONS: Final = 16  # the kernel deals them out: with so many each process has some
MODELS: Final = "llama3.2:latest,qwen3:8b"
_APART_S: Final = 0.002
_NOW_AND_THEN_S: Final = 0.1


class Site:
    """The gateway with its neighbour; `redis` and `sql` are an operator's own connections."""

    def __init__(
        self, gateway: Gateway, addresses: Sequence[str], redis: Redis, sql: asyncpg.Connection
    ) -> None:
        self.gateway = gateway
        self.addresses = addresses
        self.redis = redis
        self.sql = sql
        (self.backend,) = gateway.backends.values()

    async def all_listen(self, *, within_s: float = READY_WITHIN_S) -> None:
        """Return once every app process reports that it follows the newest revocation."""
        newest = await self.newest()
        async with asyncio.timeout(within_s):
            while not await self._all_reached(newest):  # noqa: ASYNC110 - other processes cannot set our events
                await asyncio.sleep(_APART_S)

    async def _all_reached(self, seq: int) -> bool:
        numbers = (await seen_by(self.redis)).values()
        return len(numbers) == PROCESSES and min(numbers) >= seq

    async def newest(self) -> int:
        """Return the newest number of the sequence."""
        return int(await self.sql.fetchval("SELECT COALESCE(max(seq), 0) FROM revocations"))

    @asynccontextmanager
    async def callers(self, key: Key, *, each: int = CONNECTIONS // 2) -> AsyncIterator["Callers"]:
        """Give clients with one connection each, kept open by an accepted request; `each` per address."""
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    httpx.AsyncClient(
                        base_url=address,
                        headers=key.headers,
                        trust_env=False,
                        verify=False,  # noqa: S501 - plain HTTP only
                        timeout=30,
                        limits=httpx.Limits(max_connections=1),
                    )
                )
                for address in self.addresses
                for _ in range(each)
            ]
            callers = Callers(clients)
            assert await callers.statuses() == {httpx.codes.OK}
            yield callers

    async def reach_every_process(self, callers: "Callers") -> None:
        """Let callers connect anew until each app process has one of them: the kernel deals connections out."""
        async with asyncio.timeout(READY_WITHIN_S):
            while len(served_by(await callers.ports())) < PROCESSES:
                await callers.reconnect()

    async def stream(
        self, stack: AsyncExitStack, client: httpx.AsyncClient, how: Shape, model: str
    ) -> "Stream":
        """Start a stream and return once its first bytes are here; it ends with the stack."""
        reply = await stack.enter_async_context(client.stream("POST", how.path, json=how.body(model)))
        assert reply.status_code == httpx.codes.OK
        stream = Stream(reply)
        await stream.first()
        return stream


class Stream:
    """A running answer, read as it comes."""

    def __init__(self, reply: httpx.Response) -> None:
        self.reply = reply
        self._pieces = reply.aiter_bytes()
        self._read: list[bytes] = []

    async def first(self) -> None:
        """Read the first bytes."""
        self._read.append(await anext(self._pieces))

    async def whole(self) -> httpx.Response:
        """Return the reply with its whole body once it has ended."""
        self._read += [piece async for piece in self._pieces]
        return httpx.Response(
            self.reply.status_code, headers=self.reply.headers, content=b"".join(self._read)
        )


class Callers:
    """Clients of one key that look at the catalogue, a request without a backend's share in its time."""

    def __init__(self, clients: Sequence[httpx.AsyncClient]) -> None:
        self.clients = clients

    async def statuses(self) -> set[int]:
        """Let everybody ask once."""
        replies = await asyncio.gather(*(client.get("/api/tags") for client in self.clients))
        return {reply.status_code for reply in replies}

    async def chat_statuses(self) -> set[int]:
        """Let everybody ask a model once."""
        body = NATIVE_WHOLE.body()
        replies = await asyncio.gather(*(client.post("/api/chat", json=body) for client in self.clients))
        return {reply.status_code for reply in replies}

    async def ports(self) -> set[int]:
        """Let everybody ask once; return from which ports."""
        replies = await asyncio.gather(*(client.get("/api/tags") for client in self.clients))
        return {reply.extensions["network_stream"].get_extra_info("client_addr")[1] for reply in replies}

    async def reconnect(self) -> None:
        """Let everybody's next request make a new connection."""
        replies = await asyncio.gather(
            *(client.get("/api/tags", headers={"Connection": "close"}) for client in self.clients)
        )
        assert {reply.status_code for reply in replies} == {httpx.codes.OK}

    async def statuses_from(self, moment: float, *, tries: int) -> set[int]:
        """Ask a model again and again; return what was answered to the requests begun from that moment on.

        Everybody makes its share of the tries after the moment, and asks before it as well, if less often.
        """
        body = NATIVE_WHOLE.body()

        async def statuses(client: httpx.AsyncClient) -> set[int]:
            found = set()
            left = tries // len(self.clients) + 1
            while left:
                counts = time.monotonic() >= moment
                reply = await client.post("/api/chat", json=body)
                if counts:
                    found.add(reply.status_code)
                    left -= 1
                else:
                    await asyncio.sleep(_NOW_AND_THEN_S)
            return found

        return set().union(*await asyncio.gather(*map(statuses, self.clients)))

    async def refused_after(self, committed: float, *, within_s: float) -> float:
        """Return when the last accepted request began, in seconds after the commit; all keep asking meanwhile.

        Raises
        ------
        AssertionError
            Somebody was still accepted after `within_s`.
        """

        async def last_success(client: httpx.AsyncClient) -> float:
            last = committed
            while True:
                began = time.monotonic()
                reply = await client.get("/api/tags")
                if reply.status_code != httpx.codes.OK:
                    return last
                last = began
                assert began - committed < within_s, f"accepted {began - committed:.3f} s after the commit"
                await asyncio.sleep(_APART_S)

        return max(await asyncio.gather(*map(last_success, self.clients))) - committed


@asynccontextmanager
async def running_site(home: Home) -> AsyncIterator[Site]:
    """Run a site until the block ends; it is ready when it begins."""
    async with AsyncExitStack() as stack:
        backend = SimulatedOllama.start(name="a", models=MODELS, tokens=8)
        stack.push_async_callback(backend.stop)
        gateway = home.gateway([backend], settings={"GATEWAY_WORKERS": str(PROCESSES // 2)})
        stack.push_async_callback(gateway.aclose)
        neighbour, address = gateway.neighbour()
        stack.push_async_callback(neighbour.stop)
        neighbour.start()
        await gateway.start()
        redis = await stack.enter_async_context(connect_patient(SecretStr(home.redis_url)))
        sql = await asyncpg.connect(home.database_url)
        stack.push_async_callback(sql.close)
        site = Site(gateway, [gateway.url, address], redis, sql)
        await site.all_listen()
        yield site
