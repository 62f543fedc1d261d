"""Asking one backend what it is and what it hosts: three small GETs within one deadline."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final

import httpx
import msgspec

from domain.backends import (
    BackendSpec,
    BadAnswer,
    build_backend_headers,
    is_forbidden_address,
    parse_loaded,
    parse_tags,
    parse_version,
)
from domain.model_table import HostedModel

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
_CONNECTIONS: Final = 3
_UNAUTHORIZED: Final = frozenset({401, 403})


class PollFailed(Exception):  # noqa: N818 - reads as what happened
    """A backend did not answer a poll. `kind` is a constant for operators, never the backend's text."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class BackendAnswer(msgspec.Struct, frozen=True):
    """What a backend said. `loaded` is empty also when only that question failed."""

    version: str | None
    models: tuple[HostedModel, ...]
    loaded: tuple[str, ...]


class BackendClient:
    """Asks one backend.

    Parameters
    ----------
    backend
        Where it is and how the gateway proves itself to it.
    timeout_s
        What one round of questions may take altogether.
    tls
        Whom https backends may be, shared by all clients as it is costly to build.
    """

    def __init__(self, backend: BackendSpec, *, timeout_s: float, tls: ssl.SSLContext) -> None:
        self._backend = backend
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            verify=tls,
            trust_env=False,
            follow_redirects=False,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
            headers={
                "user-agent": "neuronetz-gateway",
                "accept": "application/json",
                "accept-encoding": "identity",
                **build_backend_headers(backend),
            },
        )

    async def ask(self) -> BackendAnswer:
        """Return what the backend says of itself.

        Raises
        ------
        PollFailed
            It did not say its version and its models in time and in form.
        """
        loaded = asyncio.create_task(self._ask_loaded())
        try:
            async with asyncio.timeout(self._timeout_s):
                version = parse_version(await self._get("/api/version"))
                models = parse_tags(await self._get("/api/tags"), allow_cloud=self._backend.allow_cloud)
            return BackendAnswer(version, models, await loaded)
        except TimeoutError:
            raise PollFailed("timeout") from None
        except BadAnswer:
            raise PollFailed("bad_answer") from None
        finally:
            loaded.cancel()

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._client.aclose()

    async def _ask_loaded(self) -> tuple[str, ...]:
        with contextlib.suppress(PollFailed, BadAnswer, TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                return parse_loaded(await self._get("/api/ps"))
        return ()

    async def _get(self, path: str) -> bytes:
        try:
            async with self._client.stream(
                "GET", self._backend.base_url + path, extensions={"trace": _refuse_forbidden_address}
            ) as response:
                return await _read(response)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
            raise PollFailed(_kind(exc)) from exc


async def _read(response: httpx.Response) -> bytes:
    status = response.status_code
    if status in _UNAUTHORIZED:
        raise PollFailed("unauthorized")
    if response.is_redirect or 300 <= status < 400:  # noqa: PLR2004
        raise PollFailed("redirect")
    if status != httpx.codes.OK:
        raise PollFailed(f"http_{status}")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise PollFailed("bad_answer")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise PollFailed("bad_answer")
    return bytes(body)


async def _refuse_forbidden_address(event: str, info: dict[str, Any]) -> None:
    """Hang up before the first byte, and so before the token, if a name led to a forbidden address."""
    if event != "connection.connect_tcp.complete":
        return
    stream = info["return_value"]
    if is_forbidden_address(stream.get_extra_info("server_addr")[0]):
        await stream.aclose()
        raise PollFailed("forbidden_address")


def _kind(failure: Exception) -> str:
    if isinstance(failure, httpx.TimeoutException):
        return "timeout"
    for cause in _causes(failure):
        for error, kind in _KINDS:
            if isinstance(cause, error):
                return kind
    return "unreachable" if isinstance(failure, httpx.ConnectError | OSError) else "closed"


_KINDS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (ssl.SSLError, "tls"),
    (socket.gaierror, "dns"),
    (ConnectionRefusedError, "connect_refused"),
    (TimeoutError, "timeout"),
)


def _causes(failure: BaseException | None) -> Iterator[BaseException]:
    """Yield a failure and all that led to it, the groups of parallel connection attempts included."""
    while failure is not None:
        yield failure
        if isinstance(failure, BaseExceptionGroup):
            for member in failure.exceptions:
                yield from _causes(member)
        failure = failure.__cause__ or failure.__context__
