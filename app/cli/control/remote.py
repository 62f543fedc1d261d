"""The control plane of a gateway elsewhere, asked through its admin API.

What the API answers becomes the values of `domain` that the database would have given, field by field of the same name.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from msgspec import UNSET, UnsetType
from pydantic import SecretStr

from app.cli.control.client import AdminClient, NotFound, admin_client, checked_url, segment
from app.cli.control.port import Changed, KeyFound
from app.cli.control.remote_fleet import RemoteFleet, RemoteUsage
from app.cli.control.remote_rights import RemoteGrants, RemoteLimits, RemotePolicies
from app.cli.control.wire import value
from app.cli.failure import InputRefused
from app.cli.output import say
from app.cli.place import load
from app.cli.settings import AdminKeySettings
from db.revocation_wait import Confirmation, confirmation
from db.settings_shown import ShownSetting
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
from domain.values import Role, TenantId

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
    key = _admin_key(key_file)
    parsed = parse(key.get_secret_value())
    if parsed is None or parsed.role is not Role.ADMIN:
        where = "GATEWAY_ADMIN_KEY" if key_file is None else "The file of --admin-key-file"
        raise InputRefused(f"{where} holds no admin key: those begin with nnga_ and are copied whole.")
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in _ON_THIS_MACHINE:
        say("The admin key travels unencrypted: use https.")
    async with admin_client(url, key) as client:
        yield RemoteControlPlane(client)


def _admin_key(file: Path | None) -> SecretStr:
    if file is not None:
        try:
            return load(AdminKeySettings, {"GATEWAY_ADMIN_KEY_FILE": str(file)}).admin_key
        except InputRefused as refusal:
            raise InputRefused(str(refusal).replace("GATEWAY_ADMIN_KEY_FILE", "--admin-key-file")) from None
    if not any(os.environ.get(name, "").strip() for name in ("GATEWAY_ADMIN_KEY", "GATEWAY_ADMIN_KEY_FILE")):
        raise InputRefused(
            "--url needs an admin key: set GATEWAY_ADMIN_KEY, or name its file by --admin-key-file."
        )
    return load(AdminKeySettings, os.environ).admin_key


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

    async def settings(self) -> tuple[ShownSetting, ...]:
        """Return the settings of the app process that answers."""
        answer = await self._client.get("/configuration")
        with self._client.understood():
            return tuple(value(each, ShownSetting, of=self._client) for each in answer["settings"])

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

    async def list(self, owner: Tenant | None) -> tuple[KeySummary, ...]:
        found = await self._client.items(_keys_path(None if owner is None else owner.slug))
        tenant_id = None if owner is None else owner.id
        return tuple(self._key(each, tenant_id) for each in found)

    async def every(self) -> tuple[KeyFound, ...]:
        return tuple(self._found(each) for each in await self._client.items("/keys"))

    async def get(self, owner: Tenant, reference: str) -> KeySummary:
        try:
            return self._key(await self._client.get(_keys_path(owner.slug, reference)), owner.id)
        except NotFound:
            raise KeyUnknown(reference) from None

    async def find(self, reference: str) -> KeyFound:
        for each in await self._client.items("/keys", key=reference):
            return self._found(each)
        raise KeyUnknown(reference)

    async def create(
        self,
        owner: Tenant | None,
        name: str,
        *,
        expires_at: datetime | None,
        allowed_networks: tuple[Network, ...],
        path_allowed: bool,
    ) -> IssuedKey:
        body = {
            "name": name,
            "expiresAt": _text(expires_at),
            "allowedNetworks": [str(network) for network in allowed_networks],
            "pathAllowed": True if path_allowed else UNSET,
        }
        path, tenant_id = _keys_path(None), None
        if owner is not None:
            path, tenant_id = _keys_path(owner.slug), owner.id
        return self._issued(await self._client.ask("POST", path, _given(body)), tenant_id)

    async def change(self, found: KeyFound, change: KeyChange) -> Changed[KeySummary]:
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
        answer = await self._client.ask("PATCH", _path_of(found), _given(body))
        return Changed(found.summary, self._key(answer, found.summary.tenant_id))

    async def rotate(
        self, found: KeyFound, *, overlap: timedelta, expires_at: datetime | UnsetType | None
    ) -> Rotation:
        body = {
            "overlapSeconds": int(overlap.total_seconds()),
            "expiresAt": expires_at if isinstance(expires_at, UnsetType) else _text(expires_at),
        }
        answer = await self._client.ask("POST", f"{_path_of(found)}/rotate", _given(body))
        tenant_id = found.summary.tenant_id
        return Rotation(self._issued(answer, tenant_id), self._key(answer.get("replaced"), tenant_id))

    async def revoke(self, found: KeyFound) -> Changed[KeySummary]:
        answer = await self._client.ask("POST", f"{_path_of(found)}/revoke")
        return Changed(found.summary, self._key(answer.get("key"), found.summary.tenant_id))

    def _issued(self, answer: Any, tenant_id: TenantId | None) -> IssuedKey:
        summary = self._key(answer.get("summary"), tenant_id)
        return IssuedKey(MintedKey(str(answer.get("key")), summary.prefix, summary.role), summary)

    def _found(self, answer: Any) -> KeyFound:
        with self._client.understood():
            slug, tenant_id = answer["tenant"], answer["tenantId"]
            return KeyFound(self._key(answer, None if tenant_id is None else TenantId(UUID(tenant_id))), slug)

    def _key(self, answer: Any, tenant_id: TenantId | None) -> KeySummary:
        if not isinstance(answer, dict):
            raise self._client.strange()
        # Here a key is expired by its expiry; its status is that of the database.
        status = "active" if answer.get("status") == "expired" else answer.get("status")
        kept = {"pathAllowed": False, **answer, "tenantId": tenant_id, "status": status}
        return value(kept, KeySummary, of=self._client)


def _path(slug: str) -> str:
    return f"/tenants/{segment(slug)}"


def _keys_path(slug: str | None, key: str | None = None) -> str:
    keys = "/admin-keys" if slug is None else f"{_path(slug)}/keys"
    return keys if key is None else f"{keys}/{segment(key)}"


def _path_of(found: KeyFound) -> str:
    return _keys_path(found.slug, found.summary.prefix)


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in body.items() if each is not UNSET}


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()
