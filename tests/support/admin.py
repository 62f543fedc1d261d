"""An operator at the admin API: one key, one address, and answers that have to be what they claim."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Self
from uuid import UUID

import httpx

from tests.support.gateway import Gateway

API: Final = "/admin/v1"
TYPES: Final = "urn:neuronetz-gateway:problem:"
_NUMBERS = itertools.count(1)


class Desk:
    """A client behind a trusted proxy that says it comes from `address`."""

    def __init__(self, gateway: Gateway, key: str | None, address: str) -> None:
        self.gateway = gateway
        self.key = key
        self.address = address
        headers = {"X-Forwarded-For": address}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self.client = gateway.client()
        self.client.headers.update(headers)

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def get(self, path: str, **parameters: Any) -> httpx.Response:
        """Ask for something."""
        return await self.client.get(API + path, params=parameters)

    async def post(
        self, path: str, body: object = None, *, once: str | None = None, **parameters: Any
    ) -> httpx.Response:
        """Create or do something; a creation under the idempotency key `once`."""
        headers = {} if once is None else {"Idempotency-Key": once}
        if body is None:
            return await self.client.post(API + path, params=parameters, headers=headers)
        return await self.client.post(API + path, params=parameters, headers=headers, json=body)

    async def patch(self, path: str, body: object, *, if_match: str | None = None) -> httpx.Response:
        """Change something."""
        return await self.client.patch(API + path, json=body, headers=_matching(if_match))

    async def put(self, path: str, body: object, *, if_match: str | None = None) -> httpx.Response:
        """Set something."""
        return await self.client.put(API + path, json=body, headers=_matching(if_match))

    async def delete(self, path: str, *, if_match: str | None = None) -> httpx.Response:
        """Take something away."""
        return await self.client.delete(API + path, headers=_matching(if_match))

    async def raw(self, method: str, path: str, body: bytes, **headers: str) -> httpx.Response:
        """Send exact bytes, as JSON unless another type is given."""
        typed = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return await self.client.request(method, API + path, content=body, headers=typed)

    async def with_key(self, key: str, path: str = "/me") -> httpx.Response:
        """Ask with another key, from the same address."""
        return await self.client.get(API + path, headers={"Authorization": f"Bearer {key}"})

    @property
    def prefix(self) -> str:
        """How logs name the desk's key."""
        assert self.key is not None
        return "_".join(self.key.split("_")[:2])

    async def all_acted(self) -> None:
        """Return once every process has acted upon the newest revocation."""

        async def acted() -> bool:
            lag = (await self.get("/revocations/lag")).json()
            return bool(lag["processes"]) and not any(each["behind"] for each in lag["processes"])

        await wait_for(acted)

    async def tenant(self) -> str:
        """Create a tenant and return its slug."""
        reply = await self.post("/tenants", {"slug": new_slug()})
        assert reply.status_code == httpx.codes.CREATED, reply.text
        return str(reply.json()["slug"])

    async def new_key(self, slug: str, name: str = "laptop", **fields: Any) -> dict[str, Any]:
        """Create a key and return the answer."""
        reply = await self.post(f"/tenants/{slug}/keys", {"name": name, **fields})
        assert reply.status_code == httpx.codes.CREATED, reply.text
        return dict(reply.json())


def _matching(if_match: str | None) -> dict[str, str]:
    return {} if if_match is None else {"If-Match": if_match}


async def wait_for(condition: Callable[[], Awaitable[bool]], *, within_s: float = 10.0) -> None:
    """Return once a condition holds that has to be asked for."""
    async with asyncio.timeout(within_s):
        while not await condition():  # noqa: ASYNC110 - another process cannot set our events
            await asyncio.sleep(0.01)


def new_slug() -> str:
    """Return a slug nobody has."""
    return f"t{time.monotonic_ns()}-{next(_NUMBERS)}"


def problem(reply: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """Return the problem details of a refusal, which must be whole and of this kind."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    body = dict(reply.json())
    assert (body["type"], body["status"]) == (TYPES + kind, status)
    assert body["requestId"] == reply.headers["x-request-id"]
    assert str(UUID(body["requestId"])) == body["requestId"]
    assert body["title"]
    assert body["detail"]
    assert set(body) <= {"type", "title", "status", "detail", "requestId", "errors"}
    return body


def faults(reply: httpx.Response) -> dict[str, str]:
    """Return what a 400 says about each field or parameter, by its pointer or name."""
    errors = problem(reply, 400, "invalid-request")["errors"]
    return {each.get("pointer") or each["parameter"]: each["detail"] for each in errors}
