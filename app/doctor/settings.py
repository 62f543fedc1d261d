"""Checks of the settings: what is allowed, but weak."""

import base64
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from app.doctor.findings import Finding, FindingKind, Level
from app.settings import AppSettings, Surface
from domain.backends import BackendSpec

SHORTEST_PASSWORD: Final = 12
SHORTEST_TOKEN: Final = 16
FEWEST_BYTE_VALUES: Final = 16
"""Of 32 random bytes about 30 are different; fewer than half as many were typed by somebody."""
WIDEST_IPV4: Final = 8
WIDEST_IPV6: Final = 16

_KNOWN: Final = frozenset(
    {
        "postgres", "postgresql", "password", "passw0rd", "secret", "admin", "root", "redis", "valkey", "gateway",
        "neuronetz", "neuronetz-gateway", "changeme", "change-me", "change_me", "example", "test", "default",
    }
)  # fmt: skip
_ENCRYPTED_POSTGRES: Final = frozenset({"require", "verify-ca", "verify-full"})


def of_pepper(ring: str) -> Iterator[Finding]:
    """Yield peppers that were not made by chance. `ring` is known to be well formed."""
    for entry in ring.split(","):
        pepper_id, _, encoded = entry.strip().partition(":")
        different = len(set(base64.b64decode(encoded)))
        if different < FEWEST_BYTE_VALUES:
            yield Finding(
                FindingKind.PEPPER_WEAK,
                Level.ERROR,
                "GATEWAY_KEY_PEPPER",
                f"The pepper {pepper_id} has {different} different bytes: it is not random.",
            )


def of_store_password(variable: str, url: str, *, store: str) -> Iterator[Finding]:
    """Yield what is weak about a store's password; a socket of this machine needs none."""
    parts = urlsplit(url)
    if not parts.hostname:
        return
    password, user = unquote(parts.password or ""), unquote(parts.username or "")
    if not password:
        if _exposure(parts.hostname) is None:
            return
        level, what = Level.WARNING, f"{store} at {parts.hostname} is used without a password."
    elif password.lower() in _KNOWN or (user and password.lower() == user.lower()):
        level, what = Level.ERROR, f"The password of {store} is one that everybody tries first."
    elif len(password) < SHORTEST_PASSWORD:
        level, what = (
            Level.WARNING,
            f"The password of {store} is shorter than {SHORTEST_PASSWORD} characters.",
        )
    else:
        return
    yield Finding(FindingKind.STORE_GUESSABLE, level, variable, what)


def of_store_encryption(variable: str, url: str, *, store: str) -> Iterator[Finding]:
    """Yield whether passwords and rows travel to a store in the clear."""
    parts = urlsplit(url)
    modes = parse_qs(parts.query).get("sslmode", [])
    if (
        parts.scheme.startswith("rediss")
        or (modes and modes[-1] in _ENCRYPTED_POSTGRES)
        or not parts.hostname
    ):
        return
    level = _exposure(parts.hostname)
    if level is not None:
        yield Finding(
            FindingKind.UNENCRYPTED,
            level,
            variable,
            f"The way to {store} at {parts.hostname} is not encrypted.",
        )


def of_backend_encryption(backends: Iterable[BackendSpec]) -> Iterator[Finding]:
    """Yield backends to which prompts, and tokens where there are any, travel in the clear."""
    for backend in backends:
        parts = urlsplit(backend.base_url)
        level = None if parts.scheme == "https" else _exposure(parts.hostname or "")
        if level is None:
            continue
        too = " and the token" if backend.auth_token is not None else ""
        yield Finding(
            FindingKind.UNENCRYPTED,
            level,
            backend.name,
            f"Prompts, answers{too} travel to backend {backend.name} at {parts.hostname} unencrypted.",
        )


def of_surface(settings: AppSettings, *, behind_proxy: bool) -> Iterator[Finding]:
    """Yield what the HTTP interface leaves open. `behind_proxy` says that the operator named a proxy in front."""
    if settings.path_keys:
        yield Finding(FindingKind.PATH_KEYS_ON, Level.NOTE, "GATEWAY_PATH_KEYS", "Keys may stand in paths.")
    for origin in settings.cors_origins:
        host = urlsplit(origin).hostname or ""
        if origin.startswith("http://") and _exposure(host) is not None:
            yield Finding(
                FindingKind.ORIGIN_UNENCRYPTED,
                Level.WARNING,
                "GATEWAY_CORS_ORIGINS",
                f"{origin} is a page that travels unencrypted.",
            )
    exposed = behind_proxy or _exposure(settings.host) is not None
    if {Surface.ADMIN, Surface.TENANT} <= set(settings.surfaces) and exposed:
        how = "through a proxy that may pass on every path" if behind_proxy else f"at {settings.host}"
        yield Finding(
            FindingKind.ADMIN_EXPOSED,
            Level.WARNING if behind_proxy else Level.NOTE,
            "GATEWAY_SURFACES",
            f"Tenants and operators call the same process, {how}.",
        )


def of_metrics(settings: AppSettings) -> Iterator[Finding]:
    """Yield whether metrics are closed to everybody, or nearly open."""
    if Surface.OPS not in settings.surfaces:
        return
    if settings.metrics_token is None:
        yield Finding(
            FindingKind.METRICS_CLOSED, Level.NOTE, "GATEWAY_METRICS_TOKEN", "No token for /metrics is set."
        )
    elif len(settings.metrics_token.get_secret_value()) < SHORTEST_TOKEN:
        yield Finding(
            FindingKind.METRICS_GUESSABLE,
            Level.WARNING,
            "GATEWAY_METRICS_TOKEN",
            f"The token for /metrics is shorter than {SHORTEST_TOKEN} characters.",
        )


def of_proxy_networks(proxies: Sequence[str]) -> Iterator[Finding]:
    """Yield networks so wide that clients are among the trusted proxies."""
    for proxy in proxies:
        try:
            network = ip_network(proxy, strict=False)
        except ValueError:
            continue
        if network.prefixlen < (WIDEST_IPV4 if network.version == 4 else WIDEST_IPV6):  # noqa: PLR2004 - IP versions
            yield Finding(
                FindingKind.PROXIES_TOO_WIDE,
                Level.ERROR,
                "GATEWAY_TRUSTED_PROXIES",
                f"{proxy} trusts {network.num_addresses:,} addresses.",
            )


async def of_proxy_names(
    proxies: Sequence[str], *, named: bool, resolve: Callable[[str], Awaitable[Iterable[str]]]
) -> tuple[Finding, ...]:
    """Return the host names among the trusted proxies that have no address.

    `named` False says that they are the defaults, which few need.
    """
    found = []
    for proxy in proxies:
        if _is_network(proxy):
            continue
        try:
            addresses = tuple(await resolve(proxy))
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            addresses = ()
        if not addresses:
            default = "" if named else "; it is a default, and matters only if it stands in front"
            found.append(
                Finding(
                    FindingKind.PROXY_UNRESOLVED,
                    Level.WARNING if named else Level.NOTE,
                    "GATEWAY_TRUSTED_PROXIES",
                    f"{proxy} has no address here{default}.",
                )
            )
    return tuple(found)


def _exposure(host: str) -> Level | None:
    """Return how bad it is to talk to a host in the clear; None where nobody is in between."""
    if host in {"", "localhost"}:
        return None
    try:
        address = ip_address(host)
    except ValueError:
        # A name without dots is one of a container network or of the same site.
        return Level.WARNING if "." in host else Level.NOTE
    if address.is_loopback:
        return None
    return Level.ERROR if address.is_global else Level.NOTE


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True
