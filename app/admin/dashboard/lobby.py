"""Who enters the dashboard: programs with a key at each request, browsers with a session that a key has opened.

A session is worth what its key is worth at that moment: each request asks about the key again.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import parse_qs

import structlog
from litestar.types import Receive, Scope

from app.admin.dashboard.pages import HTML, Page, asset, login_page
from app.admin.dashboard.paths import HOME, LOGIN, LOGOUT, STYLE
from app.admin.dashboard.sessions import (
    LASTS_S,
    Header,
    Sessions,
    cookies,
    is_own_page,
    no_cookies,
    session_id_of,
)
from app.admin.errors import AdminError, CsrfTokenMissing
from app.admin.logins import Caller, Logins
from app.admin.problems import told
from app.gateway.body import Bodies
from app.gateway.call import Call
from db.postgres import Database, is_outage
from domain.errors import GatewayError, MethodNotAllowed, Unauthenticated, UnknownPath

LOGGED_IN: Final = "admin.login"
MAX_FORM_BYTES: Final = 4096
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FORM: Final = b"application/x-www-form-urlencoded"
_OK: Final = 200
_NO_CONTENT: Final = 204
_SEE_OTHER: Final = 303

_log = structlog.get_logger()


class Lobby:
    """Answers what can be answered before anybody is known, and finds out who everybody else is."""

    def __init__(self, logins: Logins, sessions: Sessions, bodies: Bodies, database: Database) -> None:
        self._logins: Final = logins
        self._sessions: Final = sessions
        self._bodies: Final = bodies
        self._database: Final = database

    async def enter(self, call: Call, scope: Scope, receive: Receive) -> Caller | Page:
        """Return who calls, or all that the request gets.

        Raises
        ------
        Unauthenticated, TooManyLogins, Unavailable
            As `Logins.caller` does; also where a session is none any more and no person looks at a page.
        CsrfTokenMissing
            Something was to be done with a session, but perhaps not by our own page.
        RedisAway
            Sessions cannot be looked up.
        """
        path = scope["path"]
        if path == LOGIN:
            scope["path_template"] = LOGIN
            return await self._log_in(call, scope, receive)
        if path == STYLE and call.method in READING:
            scope["path_template"] = STYLE
            found = asset(STYLE.rpartition("/")[2], accepts_gzip=accepts_gzip(scope["headers"]))
            if found is not None:
                return found
        if call.presents_anything:
            return await self._logins.caller(call)
        return await self._with_session(call, scope)

    async def _log_in(self, call: Call, scope: Scope, receive: Receive) -> Page:
        if call.method == "GET":
            return _page(_OK, login_page())
        if call.method != "POST":
            raise MethodNotAllowed("GET, POST")
        secure = is_https(scope)
        try:
            key = _key_in(scope["headers"], await self._bodies.read(call, receive, at_most=MAX_FORM_BYTES))
            call.take_key(key)
            session_id = await self._opened(await self._logins.caller(call), call.key())
        except Exception as refusal:
            if not (isinstance(refusal, GatewayError | AdminError) or is_outage(refusal)):
                raise
            problem = told(refusal)
            detail = (
                "This key does not work here." if isinstance(refusal, Unauthenticated) else problem.detail
            )
            return _page(problem.kind.status, login_page(detail), problem.headers)
        return Page(_SEE_OTHER, ((b"location", HOME.encode()), *cookies(session_id, secure=secure)))

    async def _opened(self, caller: Caller, key: bytes) -> bytes:
        """Open a session and return its id. Nobody is let in whose login cannot be noted."""
        async with self._database.unit_of_work(caller.actor) as work:
            until = datetime.now(UTC) + timedelta(seconds=LASTS_S)
            await work.audit.append(
                LOGGED_IN, f"key:{caller.principal.key_id}", after={"session_until": until.isoformat()}
            )
            session_id = await self._sessions.open(key, caller.actor.name)
        _log.info("admin_session_opened", key=caller.actor.name, address=caller.actor.address)
        return session_id

    async def _with_session(self, call: Call, scope: Scope) -> Caller | Page:
        session_id = session_id_of(scope["headers"])
        caller = None if session_id is None else await self._caller(call, session_id)
        if session_id is None or caller is None:
            if call.method != "GET" or not wants_page(scope["headers"]):
                raise Unauthenticated
            return Page(_SEE_OTHER, ((b"location", LOGIN.encode()), *no_cookies(secure=is_https(scope))))
        if call.method not in READING and not is_own_page(scope["headers"], session_id):
            raise CsrfTokenMissing
        if scope["path"] != LOGOUT:
            return caller
        scope["path_template"] = LOGOUT
        if call.method != "POST":
            raise UnknownPath
        await self._sessions.close(session_id)
        return Page(_NO_CONTENT, no_cookies(secure=is_https(scope)))

    async def _caller(self, call: Call, session_id: bytes) -> Caller | None:
        """Return whose session it is, None if it is none any more."""
        session = await self._sessions.find(session_id)
        if session is None:
            return None
        try:
            return await self._logins.still(call, session.key_digests, prefix=session.prefix)
        except Unauthenticated:
            await self._sessions.close(session_id)
            return None


def wants_page(headers: Iterable[Header]) -> bool:
    """Tell whether a person waits for a page."""
    return any(name == b"accept" and b"text/html" in value for name, value in headers)


def accepts_gzip(headers: Iterable[Header]) -> bool:
    """Tell whether an answer may be compressed."""
    return any(name == b"accept-encoding" and b"gzip" in value for name, value in headers)


def is_https(scope: Scope) -> bool:
    """Tell whether the browser speaks HTTPS, to us or to whoever stands before us.

    Anybody may claim it: all it does is to keep the caller's own cookies off plain HTTP.
    """
    claims = (value for name, value in scope["headers"] if name == b"x-forwarded-proto")
    return scope["scheme"] == "https" or any(
        part.strip().lower() == b"https" for claim in claims for part in claim.split(b",")
    )


def _key_in(headers: Iterable[Header], body: bytes) -> bytes:
    """Return the key that the form holds; a form that holds none is as good as a wrong key."""
    declared = next((value for name, value in headers if name == b"content-type"), b"")
    if declared.partition(b";")[0].strip().lower() != _FORM:
        return b""
    try:
        found = parse_qs(body, max_num_fields=4).get(b"key", [])
    except ValueError:
        return b""
    return found[0].strip() if len(found) == 1 else b""


def _page(status: int, body: bytes, headers: tuple[Header, ...] = ()) -> Page:
    others = tuple(header for header in headers if header[0] != b"www-authenticate")
    return Page(status, ((b"content-type", HTML), *others), body)
