"""Stage 1: a presented key becomes a principal, or one uniform refusal."""

from collections.abc import Callable
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_network

from domain.errors import Unauthenticated
from domain.keys import PepperRing, parse
from domain.ports import KeyStore
from domain.values import Principal, Role

ClientAddress = IPv4Address | IPv6Address


async def authenticate(
    presented: bytes,
    *,
    role: Role,
    keys: KeyStore,
    peppers: PepperRing,
    now: datetime,
    client_address: Callable[[], ClientAddress | None],
) -> Principal:
    """Return the principal behind `presented`.

    A key that memory does not know has its checksum tested before anybody is asked, so junk costs no I/O.
    `client_address` is only called for keys that are bound to networks.

    Raises
    ------
    Unauthenticated
        Malformed, unknown, revoked, expired, wrong role, suspended tenant or foreign network: no difference.
    Unavailable
        The key store cannot be asked and the key is in no cache.
    """
    digests = peppers.digests(presented)
    principal = keys.remembered(digests[0])
    if principal is None:
        if parse(presented) is None:
            raise Unauthenticated
        principal = await keys.find_by_digest(digests)
    if principal is None or principal.role is not role:
        raise Unauthenticated
    if principal.expires_at is not None and principal.expires_at <= now:
        raise Unauthenticated
    if principal.allowed_networks and not _inside(client_address(), principal.allowed_networks):
        raise Unauthenticated
    return principal


def _inside(address: ClientAddress | None, networks: tuple[str, ...]) -> bool:
    return address is not None and any(address in ip_network(network) for network in networks)
