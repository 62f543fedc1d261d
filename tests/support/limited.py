"""Tenants with limits behind one gateway, and what their counters say."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx

from domain.limits import LimitKind
from domain.tenants import Actor
from tests.support.asking import NATIVE_WHOLE, ask
from tests.support.gateway import Gateway, Key

LARGE: Final = 1_000_000
"""A limit that nothing here comes near."""

_ALL_OF_IT: Final[dict[str, Any]] = {"options": {"num_predict": LARGE}}
_SETTLED_WITHIN_S: Final = 15.0
_APART_S: Final = 0.02


async def set_limits(gateway: Gateway, key: Key, limits: Mapping[str, int], *, of_key: bool = False) -> None:
    """Limit the key's tenant, or the key."""
    changes = {LimitKind(name): limit for name, limit in limits.items()}
    async with gateway.database.unit_of_work(Actor("test")) as work:
        await work.limits(key.tenant_id).set(changes, key=str(key.key_id) if of_key else None)


async def limited_key(gateway: Gateway, **limits: int) -> Key:
    """Return the key of a new tenant with these limits, set before its first request."""
    key = await gateway.tenant()
    await set_limits(gateway, key, limits)
    return key


class Limited:
    """Makes tenants with limits, set before their first request. Its clients close with the stack."""

    def __init__(self, gateway: Gateway, stack: AsyncExitStack) -> None:
        self.gateway = gateway
        self._stack = stack

    async def key(self, **limits: int) -> Key:
        """Return the key of a new tenant with these limits."""
        return await limited_key(self.gateway, **limits)

    async def set(self, key: Key, limits: Mapping[str, int], *, of_key: bool = False) -> None:
        """Limit the key's tenant, or the key."""
        await set_limits(self.gateway, key, limits, of_key=of_key)

    async def client(self, key: Key) -> httpx.AsyncClient:
        """Return a client that presents a key."""
        return await self._stack.enter_async_context(self.gateway.client(key))

    async def new(self, **limits: int) -> httpx.AsyncClient:
        """Return a client of a new tenant with these limits."""
        return await self.client(await self.key(**limits))


def tokens_left(reply: httpx.Response) -> int:
    """Return what the answer says is left of the tightest token limit, the request's own reservation taken off."""
    return int(reply.headers["x-ratelimit-remaining-tokens"])


def reserved_by(first: httpx.Response) -> int:
    """Return what a request reserved: the first one of a tenant that may use `LARGE` tokens a day."""
    return LARGE - tokens_left(first)


async def moved_to(tokens: int, client: httpx.AsyncClient) -> None:
    """Return once the day's quota of `LARGE` tokens has been charged exactly that, and nothing is reserved.

    It asks for the whole of the limit, which is refused, and changes nothing, as soon as anything is spent.

    Raises
    ------
    AssertionError
        It was something else for too long.
    """
    spent = -1
    try:
        async with asyncio.timeout(_SETTLED_WITHIN_S):
            while spent != tokens:
                reply = await ask(client, NATIVE_WHOLE, **_ALL_OF_IT)
                refused = reply.status_code == httpx.codes.TOO_MANY_REQUESTS
                assert refused or reply.status_code == httpx.codes.OK, reply.text
                spent = LARGE - tokens_left(reply) if refused else 0
                assert refused or not tokens, f"nothing is spent of the {tokens} tokens charged"
                await asyncio.sleep(_APART_S)
    except TimeoutError:
        raise AssertionError(f"{spent} tokens are spent or reserved, not {tokens}") from None
