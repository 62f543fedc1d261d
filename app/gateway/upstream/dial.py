"""Open one socket to a backend, with or without TLS, within one deadline."""

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable, Sequence

from app.gateway.upstream.protocol import Connection
from app.gateway.upstream.request import Address, Origin
from domain.backends import is_forbidden_address
from domain.errors import Sent, UpstreamFailed

# A backend whose machine vanished sends nothing, not even a reset. Probes after 10 s of silence, and 15 s for
# an unacknowledged byte, end such a connection long before the first-byte deadline of a loading model.
_KEEPALIVE_IDLE_S = 10
_KEEPALIVE_INTERVAL_S = 5
_KEEPALIVE_PROBES = 3
_UNACKNOWLEDGED_MS = 15_000


async def dial(
    origin: Origin, *, make: Callable[[], Connection], connect_s: float, ssl_context: ssl.SSLContext | None
) -> Connection:
    """Return a connection that is ready for its first request.

    Every address of the name is tried in turn; each may use an equal share of what is left of `connect_s`
    seconds, which bound resolution, connecting and the TLS handshake together.

    Raises
    ------
    UpstreamFailed
        `dns`, `forbidden_address` (the name leads to a metadata service or the like), `connect_refused`,
        `connect_timeout`, `tls` or `network`; nothing was sent.
    """
    deadline = asyncio.get_running_loop().time() + connect_s
    try:
        async with asyncio.timeout_at(deadline):
            addresses = [origin.literal] if origin.literal else await _resolve(origin)
            sock = await _connect_any(addresses, deadline)
            return await _attach(sock, make, origin, ssl_context)
    except TimeoutError as exc:
        raise UpstreamFailed("connect_timeout", Sent.NOTHING) from exc
    except ConnectionRefusedError as exc:
        raise UpstreamFailed("connect_refused", Sent.NOTHING) from exc
    except OSError as exc:
        raise UpstreamFailed("network", Sent.NOTHING) from exc


async def _resolve(origin: Origin) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except socket.gaierror as exc:
        raise UpstreamFailed("dns", Sent.NOTHING) from exc
    if not found:
        raise UpstreamFailed("dns", Sent.NOTHING)
    allowed: list[Address] = [
        (family, address) for family, _, _, _, address in found if not is_forbidden_address(str(address[0]))
    ]
    if not allowed:
        raise UpstreamFailed("forbidden_address", Sent.NOTHING)
    return allowed


async def _connect_any(addresses: Sequence[Address], deadline: float) -> socket.socket:
    loop = asyncio.get_running_loop()
    failures: list[OSError] = []
    for tried, address in enumerate(addresses):
        share_s = (deadline - loop.time()) / (len(addresses) - tried)
        try:
            async with asyncio.timeout(share_s):
                return await _connect(address)
        except OSError as exc:
            failures.append(exc)
    raise failures[0]  # addresses are sorted by preference, so the first failure tells most


async def _connect(address: Address) -> socket.socket:
    family, target = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        _set_options(sock)
        await asyncio.get_running_loop().sock_connect(sock, target)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_options(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)


async def _attach(
    sock: socket.socket, make: Callable[[], Connection], origin: Origin, context: ssl.SSLContext | None
) -> Connection:
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(
            make, sock=sock, ssl=context, server_hostname=origin.host if context else None
        )
    except TimeoutError:
        sock.close()
        raise
    except OSError as exc:
        sock.close()
        raise UpstreamFailed("tls" if context else "network", Sent.NOTHING) from exc
    except BaseException:
        sock.close()
        raise
    return connection
