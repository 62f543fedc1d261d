"""Sessions of browsers: two cookies, of which one proves who asks and the other that our own page asks."""

import hashlib
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from typing import Final

from app.admin.asking_redis import asking_redis
from app.admin.dashboard.paths import ROOT
from db.redis.admin_sessions import AdminSession, AdminSessions
from domain.keys import PepperRing

LASTS_S: Final = 8 * 3600
"""A working day. Nothing prolongs a session."""
SESSION_COOKIE: Final = "nng_admin_session"
CSRF_COOKIE: Final = "nng_admin_csrf"
CSRF_HEADER: Final = b"x-csrf-token"

_ID_BYTES: Final = 32
_ID: Final = re.compile(rb"[A-Za-z0-9_-]{43}")

Header = tuple[bytes, bytes]


class Sessions:
    """Opens, finds and closes sessions. Every method but `cookies` and `is_own_page` raises `RedisAway`."""

    def __init__(self, store: AdminSessions, peppers: PepperRing) -> None:
        self._store: Final = store
        self._peppers: Final = peppers

    async def open(self, key: bytes, prefix: str) -> bytes:
        """Open a session for a key that has just been proven and return the session's id."""
        session_id = urlsafe_b64encode(secrets.token_bytes(_ID_BYTES)).rstrip(b"=")
        session = AdminSession(prefix, self._peppers.digests(key))
        async with asking_redis():
            await self._store.open(self._peppers.digests(session_id)[0], session, ttl_s=LASTS_S)
        return session_id

    async def find(self, session_id: bytes) -> AdminSession | None:
        """Return the session, None if it has ended or never began."""
        async with asking_redis():
            return await self._store.find(self._peppers.digests(session_id))

    async def close(self, session_id: bytes) -> None:
        """End the session."""
        async with asking_redis():
            await self._store.close(self._peppers.digests(session_id))


def session_id_of(headers: Iterable[Header]) -> bytes | None:
    """Return the id that a request's cookies name; None if none, several, or what cannot be one."""
    name = SESSION_COOKIE.encode()
    pairs = (
        pair.strip().partition(b"=")
        for key, value in headers
        if key == b"cookie"
        for pair in value.split(b";")
    )
    found = [value for key, _, value in pairs if key == name]
    return found[0] if len(found) == 1 and _ID.fullmatch(found[0]) else None


def csrf_token(session_id: bytes) -> bytes:
    """Return the token that goes with a session. It tells nothing of the id."""
    return hashlib.sha256(b"csrf:" + session_id).hexdigest().encode()


def is_own_page(headers: Iterable[Header], session_id: bytes) -> bool:
    """Tell whether a request carries its session's token in a header, which no foreign page can know."""
    given = [value for key, value in headers if key == CSRF_HEADER]
    return len(given) == 1 and secrets.compare_digest(given[0], csrf_token(session_id))


def cookies(session_id: bytes, *, secure: bool) -> tuple[Header, ...]:
    """Return the headers that give a browser its session."""
    return (
        _cookie(SESSION_COOKIE, session_id, LASTS_S, http_only=True, secure=secure),
        # Read by our own script, which sends it back as a header.
        _cookie(CSRF_COOKIE, csrf_token(session_id), LASTS_S, http_only=False, secure=secure),
    )


def no_cookies(*, secure: bool) -> tuple[Header, ...]:
    """Return the headers that take a browser's session away."""
    return (
        _cookie(SESSION_COOKIE, b"", 0, http_only=True, secure=secure),
        _cookie(CSRF_COOKIE, b"", 0, http_only=False, secure=secure),
    )


def _cookie(name: str, value: bytes, max_age_s: int, *, http_only: bool, secure: bool) -> Header:
    attributes = f"; Path={ROOT}; Max-Age={max_age_s}; SameSite=Strict"
    attributes += "; HttpOnly" if http_only else ""
    attributes += "; Secure" if secure else ""
    return b"set-cookie", name.encode() + b"=" + value + attributes.encode()
