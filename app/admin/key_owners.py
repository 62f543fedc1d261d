"""Whose keys a path is about: a tenant's, or the operators' own. One handler serves both; the path says which."""

from collections.abc import Sequence
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

import msgspec
from litestar.di import NamedDependency, Provide
from msgspec import UNSET, UnsetType

from app.admin.errors import FieldError, InvalidFields
from app.admin.holders import ROOT
from app.admin.tenants import SlugInPath
from db.keys import Keys
from db.postgres import UnitOfWork
from domain.tenants import Network
from domain.values import Principal


class KeyOwner(msgspec.Struct, frozen=True):
    """A tenant, or the operators (`slug` None)."""

    slug: str | None = None

    @property
    def path(self) -> str:
        """Where its keys are."""
        return f"{ROOT}/admin-keys" if self.slug is None else f"{ROOT}/tenants/{self.slug}/keys"

    async def keys(self, work: UnitOfWork) -> Keys:
        """Return its keys.

        Raises
        ------
        TenantUnknown
            There is no such tenant.
        """
        return work.keys(None if self.slug is None else (await work.tenants.get(self.slug)).id)

    def check_reach(
        self,
        caller: Principal,
        *,
        expires_at: datetime | UnsetType | None,
        allowed_networks: Sequence[str] | UnsetType,
    ) -> None:
        """Let a caller give a key this expiry and these networks; UNSET is not given.

        An admin key gives no admin key more than it has itself. One that ends tomorrow, or works from one network
        alone, would otherwise be worth as much as one without bounds.

        Raises
        ------
        InvalidFields
            It would work longer than the caller's own, or from where that does not.
        """
        if self.slug is not None:
            return
        errors = []
        if expires_at is not UNSET and _later(expires_at, caller.expires_at):
            errors.append(
                FieldError(
                    f"An admin key cannot let one outlive it; yours ends at {caller.expires_at:%Y-%m-%dT%H:%M:%SZ}.",
                    pointer="#/expiresAt",
                )
            )
        if allowed_networks is not UNSET and _wider(allowed_networks, caller.allowed_networks):
            errors.append(
                FieldError(
                    "An admin key cannot let one work from where it does not itself; yours works from"
                    f" {', '.join(caller.allowed_networks)}.",
                    pointer="#/allowedNetworks",
                )
            )
        if errors:
            raise InvalidFields(errors)


OwnerInPath = NamedDependency[KeyOwner]


def _tenant(slug: SlugInPath) -> KeyOwner:
    return KeyOwner(slug)


def _operators() -> KeyOwner:
    return KeyOwner()


OF_TENANT: Final = {"owner": Provide(_tenant, sync_to_thread=False)}
OF_OPERATORS: Final = {"owner": Provide(_operators, sync_to_thread=False)}
"""The dependencies of controllers below a tenant and beside all of them."""


def _later(moment: datetime | None, bound: datetime | None) -> bool:
    """Tell whether a moment is after another; None is never, which is later than any."""
    return bound is not None and (moment is None or moment > bound)


def _wider(networks: Sequence[str], bounds: Sequence[str]) -> bool:
    """Tell whether some address of the networks is in none of the bounds; no network at all is all of them."""
    if not bounds:
        return False
    within = [ip_network(each) for each in bounds]
    return not networks or not all(_inside(ip_network(each), within) for each in networks)


def _inside(network: Network, bounds: Sequence[Network]) -> bool:
    if isinstance(network, IPv4Network):
        return any(isinstance(each, IPv4Network) and network.subnet_of(each) for each in bounds)
    return any(isinstance(each, IPv6Network) and network.subnet_of(each) for each in bounds)
