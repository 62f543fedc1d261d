"""Whose address a request really comes from, when proxies stand in front."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import structlog

ClientAddress = IPv4Address | IPv6Address

RESOLVE_EVERY_S = 25.0
RESOLVE_TIMEOUT_S = 5.0
KEEP_LAST_GOOD_S = 300.0
"""How long the last addresses of a name are believed that no longer resolves."""

_log = structlog.get_logger()


async def resolve_name(name: str) -> Iterable[str]:
    """Return the addresses of a host name.

    Raises
    ------
    OSError, UnicodeError
        It has none now, or is no name at all.
    """
    found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class TrustedProxies:
    """The proxies whose X-Forwarded-For is believed: addresses, networks, and names that are re-resolved.

    A name that no longer resolves keeps its last good addresses for five minutes, then trusts nobody.
    """

    def __init__(
        self,
        entries: Sequence[str],
        *,
        resolve_name: Callable[[str], Awaitable[Iterable[str]]] = resolve_name,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resolve_name = resolve_name
        self._now = now
        self._networks: list[IPv4Network | IPv6Network] = []
        self._names: list[str] = []
        for entry in entries:
            try:
                self._networks.append(ip_network(entry, strict=False))
            except ValueError:
                self._names.append(entry)
        self._resolved: dict[str, tuple[float, frozenset[ClientAddress]]] = {}
        self._by_name: frozenset[ClientAddress] = frozenset()

    async def follow_names(self) -> None:
        """Resolve the names now and then for ever. Returns at once when there are none."""
        while self._names:
            await self.resolve()
            await asyncio.sleep(RESOLVE_EVERY_S)

    async def resolve(self) -> None:
        """Look every name up once, all at the same time."""
        await asyncio.gather(*(self._resolve(name) for name in self._names))
        # What is kept now stands until the next look has ended, and must not be too old even then.
        oldest = self._now() - KEEP_LAST_GOOD_S + RESOLVE_EVERY_S + RESOLVE_TIMEOUT_S
        self._by_name = frozenset().union(*(a for at, a in self._resolved.values() if at >= oldest))

    async def _resolve(self, name: str) -> None:
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                found = await self._resolve_name(name)
        except (OSError, UnicodeError) as exc:  # TimeoutError is an OSError
            _log.debug("trusted_proxy_unresolved", name=name, error=type(exc).__name__)
            return
        addresses = (_parse(text) for text in found)
        self._resolved[name] = (self._now(), frozenset(a for a in addresses if a is not None))

    def trusts(self, address: ClientAddress) -> bool:
        """Tell whether `address` is one of the proxies."""
        return address in self._by_name or any(address in network for network in self._networks)

    def client_address(self, peer: str | None, forwarded_for: Sequence[bytes]) -> ClientAddress | None:
        """Return the rightmost hop that is not a trusted proxy.

        Proxies append, so what stands further left is the client's own claim. None when the peer has no
        address (a Unix socket) or a hop written by a trusted proxy is unreadable.
        """
        address = _parse(peer)
        if address is None or not forwarded_for or not self.trusts(address):
            return address
        hops = b",".join(forwarded_for).split(b",")
        for hop in reversed(hops):
            address = _parse(hop.decode("latin-1").strip())
            if address is None or not self.trusts(address):
                return address
        return address


def _parse(text: object) -> ClientAddress | None:
    try:
        address = ip_address(str(text))
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
