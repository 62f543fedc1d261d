"""Limits, grants and option policies by the admin API."""

from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from app.cli.control.client import AdminClient, Conflict, NotFound, segment
from app.cli.control.port import Changed
from app.cli.control.wire import value
from domain.limits import LimitKind
from domain.tenants import (
    GrantSummary,
    GrantUnknown,
    KeyUnknown,
    LimitSummary,
    PolicySummary,
    Tenant,
    checked_pattern,
)
from domain.values import KeyId, Limits, OptionRule

T = TypeVar("T")

_DAMAGED = "unreadable"


class RemoteLimits:
    """See `app.cli.control.port.LimitDesk`."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    async def list(self, owner: Tenant) -> tuple[LimitSummary, ...]:
        """Return the tenant's level, and then those of its keys."""
        own = await self.get(owner, None)
        of_keys = await self._client.items(f"{level_path(owner)}/limits/keys")
        with self._client.understood():
            return (
                LimitSummary(own, None),
                *(LimitSummary(self._own(each), KeyId(UUID(each["keyId"]))) for each in of_keys),
            )

    async def get(self, owner: Tenant, key: str | None) -> Limits:
        """Return one level."""
        return self._own(await self._ask("GET", owner, key))

    async def set(
        self, owner: Tenant, key: str | None, changes: Mapping[LimitKind, int | None]
    ) -> Changed[Limits]:
        """Set some."""
        before = await self.get(owner, key)
        body = {_camel(kind.value): number for kind, number in changes.items()}
        return Changed(before, self._own(await self._ask("PATCH", owner, key, body)))

    async def clear(self, owner: Tenant, key: str | None) -> bool:
        """Take all of one level away."""
        if not (await self.get(owner, key)).any_set():
            return False
        await self._ask("DELETE", owner, key)
        return True

    async def _ask(self, method: str, owner: Tenant, key: str | None, body: object = None) -> Any:
        try:
            return await self._client.ask(method, f"{level_path(owner, key)}/limits", body)
        except NotFound:
            raise KeyUnknown(key or "") from None

    def _own(self, answer: Any) -> Limits:
        return value(answer.get("own"), Limits, of=self._client)


class RemoteGrants:
    """See `app.cli.control.port.GrantDesk`."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    async def list(self, owner: Tenant, key: str | None = None) -> tuple[GrantSummary, ...]:
        """Return those of the tenant and all its keys, or those of one key alone."""
        below = "true" if key is None else None
        found = await of_key(self._client.items(f"{level_path(owner, key)}/grants", below=below), key)
        return tuple(value(each, GrantSummary, of=self._client) for each in found)

    async def allow(self, owner: Tenant, pattern: str, key: str | None) -> bool:
        """Grant a pattern."""
        path = f"{level_path(owner, key)}/grants"
        try:
            await of_key(self._client.ask("POST", path, {"pattern": pattern}), key)
        except Conflict:
            return False
        return True

    async def disallow(self, owner: Tenant, pattern: str, key: str | None) -> bool:
        """Take a grant back."""
        found = await grant_id(self._client, owner, key, pattern)
        if found is None:
            return False
        try:
            await self._client.ask("DELETE", f"{level_path(owner, key)}/grants/{segment(found)}")
        except NotFound:
            return False
        return True


class RemotePolicies:
    """See `app.cli.control.port.PolicyDesk`."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    async def list(self, owner: Tenant, key: str | None = None) -> tuple[PolicySummary, ...]:
        """Return those of the tenant and all below it, or those of one key."""
        path = f"{level_path(owner, key)}/policies"
        found = await of_key(self._client.items(path, below="true"), key)
        return tuple(value({**each, "rule": _rule(each)}, PolicySummary, of=self._client) for each in found)

    async def set(
        self, owner: Tenant, field: str, rule: OptionRule, *, key: str | None, pattern: str | None
    ) -> bool:
        """Set a rule."""
        path = await self._path(owner, field, key, pattern)
        try:
            before = _rule(await self._client.get(path))
        except NotFound:
            before = None
        wanted = msgspec.to_builtins(rule)
        await self._client.ask("PUT", path, wanted)
        return bool(before != wanted)

    async def clear(self, owner: Tenant, field: str, *, key: str | None, pattern: str | None) -> bool:
        """Take a rule away."""
        path = await self._path(owner, field, key, pattern)
        try:
            await self._client.ask("DELETE", path)
        except NotFound:
            return False
        return True

    async def _path(self, owner: Tenant, field: str, key: str | None, pattern: str | None) -> str:
        level = level_path(owner, key)
        if key is not None:
            await of_key(self._client.get(level), key)
        if pattern is not None:
            found = await grant_id(self._client, owner, key, pattern)
            if found is None:
                raise GrantUnknown(checked_pattern(pattern))
            level = f"{level}/grants/{segment(found)}"
        return f"{level}/policies/{segment(field)}"


def level_path(owner: Tenant, key: str | None = None) -> str:
    """Return the path of a tenant, or of one of its keys."""
    tenant = f"/tenants/{segment(owner.slug)}"
    return tenant if key is None else f"{tenant}/keys/{segment(key)}"


async def of_key(asked: Awaitable[T], key: str | None) -> T:
    """Return the answer to a question below a key; that there is nothing means that there is no such key.

    Raises
    ------
    KeyUnknown
        The tenant has none.
    """
    try:
        return await asked
    except NotFound:
        if key is None:
            raise
        raise KeyUnknown(key) from None


async def grant_id(client: AdminClient, owner: Tenant, key: str | None, pattern: str) -> str | None:
    """Return the id of a tenant's or a key's grant by its pattern, None if there is none.

    Raises
    ------
    KeyUnknown
        The tenant has no such key.
    """
    found = await of_key(client.items(f"{level_path(owner, key)}/grants", pattern=pattern), key)
    return str(found[0]["id"]) if found else None


def _rule(answer: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a rule says as it is stored, None where that cannot be read."""
    if answer.get("action") == _DAMAGED:
        return None
    return {name: answer[name] for name in ("action", "min", "max", "value") if answer.get(name) is not None}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.title() for part in rest)
