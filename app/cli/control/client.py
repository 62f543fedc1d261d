"""Asking a gateway's admin API: one request, and every way in which it can fail as a sentence."""

import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx
import msgspec
from pydantic import SecretStr

from app.cli.failure import CommandFailed, InputRefused
from app.cli.place import reason

API: Final = "/admin/v1"
MOST_ENTRIES: Final = 200
"""Of a page: the most that the API gives at once."""

_TIMEOUT_S: Final = 60.0
_CONNECT_TIMEOUT_S: Final = 10.0
_SHOWN_CHARS: Final = 1000
_UNAUTHENTICATED: Final = 401
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_INVALID: Final = frozenset({400, 422})


class NotFound(CommandFailed):
    """What the path names is not there."""


class Conflict(CommandFailed):
    """It contradicts what is there."""


class _FieldError(msgspec.Struct):
    detail: str
    pointer: str | None = None
    parameter: str | None = None

    def told(self) -> str:
        where = self.parameter or (self.pointer or "").removeprefix("#/")
        return f"{where}: {self.detail}" if where else self.detail


class _Problem(msgspec.Struct):
    detail: str
    errors: tuple[_FieldError, ...] = ()


class AdminClient:
    """The admin API of the gateway at `url`; one key, one connection pool."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url: Final = url
        self._client = client

    async def get(self, path: str, **parameters: Any) -> Any:
        """Return what a path answers."""
        return await self.ask("GET", path, parameters=parameters)

    async def items(self, path: str, *, most: int | None = None, **parameters: Any) -> list[dict[str, Any]]:
        """Return the entries of all pages, or the first `most`."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            limit = MOST_ENTRIES if most is None else min(MOST_ENTRIES, most - len(found))
            page = await self.get(path, limit=limit, cursor=cursor, **parameters)
            with self.understood():
                found += page["items"]
                cursor = page["nextCursor"]
            if cursor is None or (most is not None and len(found) >= most):
                return found

    async def ask(
        self, method: str, path: str, body: object = None, *, parameters: Mapping[str, Any] | None = None
    ) -> Any:
        """Send one request and return its JSON, None where the answer has no body.

        Raises
        ------
        NotFound, Conflict, InputRefused, CommandFailed
            The gateway cannot be asked, or says no; the text is a sentence.
        """
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        with self._troubles():
            reply = await self._client.request(method, f"{self.url}{API}{path}", params=given, json=body)
        if not reply.is_success:
            raise self._refusal(reply)
        if reply.status_code == httpx.codes.NO_CONTENT:
            return None
        with self.understood():
            return msgspec.json.decode(reply.content, type=dict[str, Any])

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Turn an answer in which something is missing, or else than it should be, into a sentence.

        Raises
        ------
        CommandFailed
            The block met such an answer.
        """
        try:
            yield
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
            raise self.strange() from None

    def strange(self) -> CommandFailed:
        """Return the failure of an answer that this release does not understand."""
        return CommandFailed(
            f"What answers at {self.url} is no gateway of this release, or not its admin API."
        )

    @asynccontextmanager
    async def pieces(self, path: str, **parameters: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send one request and give its answer piece by piece, as it comes.

        Raises
        ------
        NotFound, Conflict, InputRefused, CommandFailed
            The gateway cannot be asked, says no, or breaks off.
        """
        given = {name: value for name, value in parameters.items() if value is not None}
        with self._troubles():
            async with self._client.stream("GET", f"{self.url}{API}{path}", params=given) as reply:
                if not reply.is_success:
                    await reply.aread()
                    raise self._refusal(reply)
                yield reply.aiter_bytes()

    def _refusal(self, reply: httpx.Response) -> CommandFailed:
        if reply.is_redirect:
            return CommandFailed(
                f"{self.url} leads elsewhere (HTTP {reply.status_code}); give the address itself."
            )
        try:
            problem = msgspec.json.decode(reply.content, type=_Problem)
        except msgspec.MsgspecError:
            return CommandFailed(f"{self.url} answered HTTP {reply.status_code} without saying why.")
        told = " ".join(error.told() for error in problem.errors) or problem.detail
        told = "".join(char if char.isprintable() else " " for char in told)[:_SHOWN_CHARS]
        status = reply.status_code
        if status == _UNAUTHENTICATED:
            return CommandFailed(
                f"{self.url} refused the admin key: it is unknown, over, or not for this address."
            )
        if status in _INVALID:
            return InputRefused(told)
        return {_NOT_FOUND: NotFound, _CONFLICT: Conflict}.get(status, CommandFailed)(told)

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException:
            raise CommandFailed(f"{self.url} did not answer in time.") from None
        except httpx.ConnectError as exc:
            raise CommandFailed(f"{self.url} cannot be reached: {_why(exc)}.") from None
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise CommandFailed(f"{self.url} broke off ({type(exc).__name__}).") from None


def segment(text: str) -> str:
    """Return a text as one segment of a path."""
    return quote(text, safe="")


def checked_url(text: str) -> str:
    """Return a gateway's address without its trailing slash.

    Raises
    ------
    InputRefused
        It cannot be one. It is not repeated: it might hold a password.
    """
    wrong = InputRefused("--url takes an address such as https://gateway.example.org.")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise wrong
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InputRefused("--url takes no user name, password, query or fragment.")
    return text.rstrip("/")


@asynccontextmanager
async def admin_client(url: str, key: SecretStr) -> AsyncIterator[AdminClient]:
    """Give a client of the gateway at an address that was checked."""
    async with httpx.AsyncClient(
        headers={
            "authorization": f"Bearer {key.get_secret_value()}",
            "accept": "application/json",
            "user-agent": "neuronetz-gateway",
        },
        timeout=httpx.Timeout(_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
        follow_redirects=False,
        # A proxy of the environment would read the key of a plain request; of an encrypted one it sees nothing.
        trust_env=url.startswith("https:"),
    ) as client:
        yield AdminClient(url, client)


def _why(failure: BaseException) -> str:
    """Return why no connection came about: what the deepest cause that we know says."""
    cause: BaseException | None = failure
    why = "connection failed"
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError):
            why = reason(cause)
        cause = cause.__cause__ or cause.__context__
    return why
