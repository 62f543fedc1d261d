"""Whose address a request really comes from, when proxies stand in front."""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import structlog

ClientAddress = IPv4Address | IPv6Address

RESOLVE_EVERY_S = 30.0
KEEP_LAST_GOOD_S = 300.0

_log = structlog.get_logger()


class TrustedProxies:
    """The proxies whose X-Forwarded-For is believed: addresses, networks, and names that are re-resolved.

    A name that no longer resolves keeps its last good addresses for five minutes, then trusts nobody.
    """

    def __init__(self, entries: Sequence[str]) -> None:
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
        """Look every name up once."""
        loop = asyncio.get_running_loop()
        for name in self._names:
            try:
                found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            except OSError:
                _log.debug("trusted_proxy_unresolved", name=name)
                continue
            addresses = frozenset(_parse(entry[4][0]) for entry in found) - {None}
            self._resolved[name] = (loop.time(), frozenset(a for a in addresses if a is not None))
        oldest = loop.time() - KEEP_LAST_GOOD_S
        self._by_name = frozenset().union(*(a for at, a in self._resolved.values() if at >= oldest))

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
