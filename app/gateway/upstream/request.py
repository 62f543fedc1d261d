"""Where a backend is, and the bytes of a request head."""

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_LONGEST_HOST = 254  # with the final dot
_PATH = re.compile(r"(/[!-~]*)?")

# Framing and routing belong to this module alone: with a configured copy, two readers could disagree.
_RESERVED_HEADERS = frozenset(
    {
        "accept", "accept-encoding", "connection", "content-length", "content-type", "expect", "host", "te",
        "trailer", "traceparent", "transfer-encoding", "upgrade", "x-request-id",
    }
)  # fmt: skip

Address = tuple[int, tuple[Any, ...]]
"""Family and socket address, as the resolver gives them."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The parsed base URL of a backend."""

    host: str
    """Name or literal address, without brackets."""
    port: int
    tls: bool
    authority: str
    """What the Host header says."""
    path_prefix: str
    """Starts with a slash and does not end with one, or empty."""
    literal: Address | None
    """The address itself if `host` is one, so that no name is ever looked up."""


def parse_origin(base_url: str) -> Origin:
    """Take a backend's base URL apart.

    Raises
    ------
    ValueError
        It is not a plain http(s) URL. The message never repeats the URL: it may hold a secret.
    """
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError:
        raise ValueError("base_url has an invalid host or port") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("base_url must start with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("base_url must not contain a user name or password; use auth_token")
    if parts.query or parts.fragment:
        raise ValueError("base_url must not have a query or a fragment")
    if not _PATH.fullmatch(parts.path):
        raise ValueError("base_url has a path with blanks or control characters")
    host = _checked_host(parts)
    port = port or _DEFAULT_PORTS[parts.scheme]
    return Origin(
        host=host,
        port=port,
        tls=parts.scheme == "https",
        authority=parts.netloc.removesuffix(":"),
        path_prefix=parts.path.rstrip("/"),
        literal=_literal_address(host, port),
    )


def _checked_host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    is_name = len(host) <= _LONGEST_HOST and _HOST_NAME.fullmatch(host)
    if not is_name and _literal_address(host, 0) is None:
        raise ValueError("base_url needs a valid host name in ASCII (punycode for others)")
    return host


def _literal_address(host: str, port: int) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return (socket.AF_INET, (host, port))
    if address.scope_id is not None:
        return None  # a zone means something on this machine only, and may not stand in a Host header
    return (socket.AF_INET6, (host, port, 0, 0))


class RequestHeads:
    """Builds the head of each POST to one backend; everything that never changes is encoded once.

    Parameters
    ----------
    origin
        The backend.
    headers
        The backend's own headers, usually its authorization.

    Raises
    ------
    ValueError
        A header is malformed or not the operator's to set. The message names the header, never its value.
    """

    __slots__ = ("_breaks", "_prefix", "_static")

    def __init__(self, origin: Origin, headers: Mapping[str, str]) -> None:
        lines = {
            "Host": origin.authority,
            "Content-Type": "application/json",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
        }
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"header name {name!r} is not a token")
            if name.lower() in _RESERVED_HEADERS:
                raise ValueError(f"header {name} is set by the gateway itself")
            if not _HEADER_VALUE.fullmatch(value):
                raise ValueError(f"the value of header {name} has characters that no header may have")
            lines[name] = value.strip()
        block = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._prefix = b"POST " + origin.path_prefix.encode("ascii")
        self._static = b" HTTP/1.1\r\n" + block.encode("latin-1") + b"X-Request-Id: "
        self._breaks = self._static.count(b"\n") + 3  # after the request id, the length, and the empty line

    def build(self, path: bytes, length: int, request_id: bytes, traceparent: bytes | None) -> bytes:
        """Return the head of a POST whose body has `length` bytes.

        Raises
        ------
        ValueError
            An argument would end its line early.
        """
        head = b"".join(
            (
                self._prefix, path, self._static, request_id,
                b"\r\ntraceparent: " + traceparent if traceparent is not None else b"",
                b"\r\nContent-Length: %d\r\n\r\n" % length,
            )
        )  # fmt: skip
        breaks = self._breaks if traceparent is None else self._breaks + 1
        # Two counts over a few hundred bytes are cheaper than a look at each argument, and prove the same.
        if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b" " in path:
            raise ValueError("path, request id or traceparent would break the request head")
        return head
