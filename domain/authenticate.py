"""Stage 1: a presented key becomes a principal, or one uniform refusal."""

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from domain.errors import Unauthenticated
from domain.keys import parse
from domain.ports import KeyStore
from domain.values import Principal, Role

ClientAddress = IPv4Address | IPv6Address


async def authenticate(
    presented: bytes,
    *,
    digests: tuple[bytes, ...],
    role: Role,
    keys: KeyStore,
    now: datetime,
    client_address: Callable[[], ClientAddress | None],
    in_path: bool = False,
) -> Principal:
    """Return the principal behind `presented`, whose digests under the peppers in force are `digests`.

    A key that memory does not know has its checksum tested before anybody is asked, so junk costs no I/O.
    `client_address` is only called for keys that are bound to networks. `in_path` says that the path held it.

    Raises
    ------
    Unauthenticated
        Malformed, unknown, revoked, expired, wrong role, suspended tenant, foreign network or a carrier that the
        key must not use: no difference.
    Unavailable
        The key store cannot be asked and the key is in no cache.
    """
    principal = keys.remembered(digests[0])
    if principal is None:
        if parse(presented) is None:
            raise Unauthenticated
        principal = await keys.find_by_digest(digests)
    if principal is None or not usable(
        principal, role=role, now=now, client_address=client_address, in_path=in_path
    ):
        raise Unauthenticated
    return principal


def usable(
    principal: Principal,
    *,
    role: Role,
    now: datetime,
    client_address: Callable[[], ClientAddress | None],
    in_path: bool = False,
) -> bool:
    """Tell whether a principal may act now, in this role, from this address, with its key where it stood."""
    if in_path and not principal.path_allowed:
        return False
    if principal.role is not role or (principal.expires_at is not None and principal.expires_at <= now):
        return False
    return not principal.allowed_networks or _inside(client_address(), principal.allowed_networks)


def _inside(address: ClientAddress | None, networks: tuple[str, ...]) -> bool:
    return address is not None and any(address in _network(network) for network in networks)


@lru_cache(maxsize=4096)
def _network(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text)
