"""The control plane of a gateway elsewhere, asked through its admin API.

What the API answers becomes the values of `domain` that the database would have given, field by field of the same name.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import UNSET, UnsetType

from app.cli.control.client import AdminClient, NotFound, admin_client, checked_url, segment
from app.cli.control.port import Changed, KeyFound
from app.cli.control.remote_fleet import RemoteFleet, RemoteUsage
from app.cli.control.remote_rights import RemoteGrants, RemoteLimits, RemotePolicies
from app.cli.control.wire import value
from app.cli.failure import CommandFailed, InputRefused
from app.cli.output import say
from app.cli.place import load
from app.cli.settings import AdminKeySettings
from db.revocation_wait import Confirmation, confirmation
from domain.keys import MintedKey, parse
from domain.tenants import (
    AuditEvent,
    AuditFilter,
    IssuedKey,
    KeyChange,
    KeySummary,
    KeyUnknown,
    Network,
    Rotation,
    Tenant,
    TenantChange,
    TenantStatus,
    TenantUnknown,
    checked_name,
    checked_slug,
    checked_time_zone,
)
from domain.values import Role

_ADMIN_KEYS: Final = (
    "Admin keys are managed in the database alone: leave --url out, on the gateway's machine."
)
_ASKED_AT_ONCE: Final = 16
_ON_THIS_MACHINE: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@asynccontextmanager
async def remote_control_plane(url: str, key_file: Path | None) -> AsyncIterator["RemoteControlPlane"]:
    """Give the control plane of the gateway at an address.

    Raises
    ------
    CommandFailed
        Address or key cannot be used, or the gateway cannot be asked.
    """
    url = checked_url(url)
    environ = os.environ if key_file is None else {"GATEWAY_ADMIN_KEY_FILE": str(key_file)}
    key = load(AdminKeySettings, environ).admin_key
    parsed = parse(key.get_secret_value())
    if parsed is None or parsed.role is not Role.ADMIN:
        raise InputRefused(
            "GATEWAY_ADMIN_KEY holds no admin key: those begin with nnga_ and are copied whole."
        )
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in _ON_THIS_MACHINE:
        say("The admin key travels unencrypted: use https.")
    async with admin_client(url, key) as client:
        yield RemoteControlPlane(client)


class RemoteControlPlane:
    """See `app.cli.control.port.ControlPlane`."""

    def __init__(self, client: AdminClient) -> None:
        self.tenants: Final = _Tenants(client)
        self.keys: Final = _Keys(client)
        self.limits: Final = RemoteLimits(client)
        self.grants: Final = RemoteGrants(client)
        self.policies: Final = RemotePolicies(client)
        self.usage: Final = RemoteUsage(client)
        self.fleet: Final = RemoteFleet(client)
        self.gateway_url: Final = client.url
        self._client = client

    async def confirm(self, *, since: float) -> Confirmation | None:
        """Ask how far every process is until all are there."""
        lag = await self._client.get("/revocations/lag")

        async def seen() -> Mapping[str, int]:
            told = await self._client.get("/revocations/lag")
            return {each["name"]: each["seq"] for each in told["processes"]}

        with self._client.understood():
            if not lag["redisReachable"]:
                return None
            return await confirmation(int(lag["newest"]), seen=seen, since=since)

    async def audit(self, wanted: AuditFilter, limit: int) -> tuple[AuditEvent, ...]:
        """Read the newest pages."""
        found = await self._client.items(
            "/audit",
            most=limit,
            subject=wanted.subject,
            action=wanted.action,
            actor=wanted.actor,
            since=_text(wanted.since),
            until=_text(wanted.until),
        )
        return tuple(value(each, AuditEvent, of=self._client) for each in found)


class _Tenants:
    def __init__(self, client: AdminClient) -> None:
        self._client = client

    async def list(self) -> tuple[Tenant, ...]:
        return tuple(self._tenant(each) for each in await self._client.items("/tenants"))

    async def get(self, slug: str) -> Tenant:
        try:
            return self._tenant(await self._client.get(_path(slug)))
        except NotFound:
            raise TenantUnknown(slug) from None

    async def create(self, slug: str, name: str, *, time_zone: str, allow_all_models: bool) -> Tenant:
        body = {
            "slug": checked_slug(slug),
            "name": checked_name(name),
            "timeZone": checked_time_zone(time_zone),
            "allowAllModels": allow_all_models,
        }
        return self._tenant(await self._client.ask("POST", "/tenants", body))

    async def change(self, slug: str, change: TenantChange) -> Changed[Tenant]:
        if change.name is not UNSET:
            checked_name(change.name)
        if change.time_zone is not UNSET:
            checked_time_zone(change.time_zone)
        body = {"name": change.name, "timeZone": change.time_zone, "allowAllModels": change.allow_all_models}
        return await self._patch(slug, body)

    async def set_status(self, slug: str, status: TenantStatus) -> Changed[Tenant]:
        return await self._patch(slug, {"status": status.value})

    async def _patch(self, slug: str, body: Mapping[str, Any]) -> Changed[Tenant]:
        before = await self.get(slug)
        after = self._tenant(await self._client.ask("PATCH", _path(slug), _given(body)))
        return Changed(before, after)

    def _tenant(self, answer: Any) -> Tenant:
        return value(answer, Tenant, of=self._client)


class _Keys:
    def __init__(self, client: AdminClient) -> None:
        self._client = client
        self._tenants = _Tenants(client)

    async def list(self, owner: Tenant | None) -> tuple[KeySummary, ...]:
        if owner is None:
            say("Admin keys are not shown: they are managed in the database alone.")
            return ()
        found = await self._client.items(f"{_path(owner.slug)}/keys")
        return tuple(self._key(each, owner) for each in found)

    async def get(self, owner: Tenant, reference: str) -> KeySummary:
        try:
            return self._key(await self._client.get(_path(owner.slug, reference)), owner)
        except NotFound:
            raise KeyUnknown(reference) from None

    async def find(self, reference: str) -> KeyFound:
        if parsed_as_admin(reference):
            raise CommandFailed(_ADMIN_KEYS)
        # The API has every key below its tenant; operators know keys by their prefixes alone.
        tenants = await self._tenants.list()
        for first in range(0, len(tenants), _ASKED_AT_ONCE):
            asked = tenants[first : first + _ASKED_AT_ONCE]
            for found in await asyncio.gather(*(self._of(tenant, reference) for tenant in asked)):
                if found is not None:
                    return found
        raise KeyUnknown(reference)

    async def _of(self, tenant: Tenant, reference: str) -> KeyFound | None:
        try:
            return KeyFound(await self.get(tenant, reference), tenant)
        except KeyUnknown:
            return None

    async def create(
        self,
        owner: Tenant | None,
        name: str,
        *,
        expires_at: datetime | None,
        allowed_networks: tuple[Network, ...],
        path_allowed: bool,
    ) -> IssuedKey:
        if owner is None:
            raise CommandFailed(_ADMIN_KEYS)
        body = {
            "name": name,
            "expiresAt": _text(expires_at),
            "allowedNetworks": [str(network) for network in allowed_networks],
            "pathAllowed": True if path_allowed else UNSET,
        }
        return self._issued(await self._client.ask("POST", f"{_path(owner.slug)}/keys", _given(body)), owner)

    async def change(self, found: KeyFound, change: KeyChange) -> Changed[KeySummary]:
        owner = _owner(found)
        networks = change.allowed_networks
        expires_at = change.expires_at
        body = {
            "name": change.name,
            "expiresAt": expires_at if isinstance(expires_at, UnsetType) else _text(expires_at),
            "allowedNetworks": networks
            if isinstance(networks, UnsetType)
            else [str(each) for each in networks],
            "pathAllowed": change.path_allowed,
        }
        answer = await self._client.ask("PATCH", _path(owner.slug, found.summary.prefix), _given(body))
        return Changed(found.summary, self._key(answer, owner))

    async def rotate(
        self, found: KeyFound, *, overlap: timedelta, expires_at: datetime | UnsetType | None
    ) -> Rotation:
        owner = _owner(found)
        body = {
            "overlapSeconds": int(overlap.total_seconds()),
            "expiresAt": expires_at if isinstance(expires_at, UnsetType) else _text(expires_at),
        }
        path = f"{_path(owner.slug, found.summary.prefix)}/rotate"
        answer = await self._client.ask("POST", path, _given(body))
        return Rotation(self._issued(answer, owner), self._key(answer.get("replaced"), owner))

    async def revoke(self, found: KeyFound) -> Changed[KeySummary]:
        owner = _owner(found)
        answer = await self._client.ask("POST", f"{_path(owner.slug, found.summary.prefix)}/revoke")
        return Changed(found.summary, self._key(answer.get("key"), owner))

    def _issued(self, answer: Any, owner: Tenant) -> IssuedKey:
        summary = self._key(answer.get("summary"), owner)
        return IssuedKey(MintedKey(str(answer.get("key")), summary.prefix, summary.role), summary)

    def _key(self, answer: Any, owner: Tenant) -> KeySummary:
        if not isinstance(answer, dict):
            raise self._client.strange()
        # Here a key is expired by its expiry; its status is that of the database.
        status = "active" if answer.get("status") == "expired" else answer.get("status")
        kept = {"tenantId": str(owner.id), "pathAllowed": False, **answer, "status": status}
        return value(kept, KeySummary, of=self._client)


def parsed_as_admin(reference: str) -> bool:
    """Tell whether a key's prefix is an admin key's."""
    return reference.startswith("nnga_")


def _owner(found: KeyFound) -> Tenant:
    if found.tenant is None:
        raise CommandFailed(_ADMIN_KEYS)
    return found.tenant


def _path(slug: str, key: str | None = None) -> str:
    tenant = f"/tenants/{segment(slug)}"
    return tenant if key is None else f"{tenant}/keys/{segment(key)}"


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in body.items() if each is not UNSET}


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()
