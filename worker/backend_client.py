"""Asking one backend what it is and what it hosts: three small GETs within one deadline."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator, Mapping
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
from domain.model_table import HostedModel, LoadedModel

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
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
    loaded: tuple[LoadedModel, ...]


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
            timeout=timeout_s * 2,  # our own deadline, over all questions together, is the one that counts
            limits=httpx.Limits(max_connections=1),
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
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                version = parse_version(await self._get("/api/version"))
                models = parse_tags(await self._get("/api/tags"), allow_cloud=self._backend.allow_cloud)
        except TimeoutError:
            raise PollFailed("timeout") from None
        except BadAnswer:
            raise PollFailed("bad_answer") from None
        return BackendAnswer(version, models, await self._ask_loaded(deadline))

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._client.aclose()

    async def _ask_loaded(self, deadline: float) -> tuple[LoadedModel, ...]:
        with contextlib.suppress(PollFailed, BadAnswer, TimeoutError):
            async with asyncio.timeout_at(deadline):
                return parse_loaded(await self._get("/api/ps"))
        return ()

    async def _get(self, path: str) -> bytes:
        try:
            async with self._client.stream(
                "GET", self._backend.base_url + path, extensions={"trace": ConnectionWatch()}
            ) as response:
                return await _read(response)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
            raise PollFailed(_kind(exc)) from exc


class ConnectionWatch:
    """Follows one request's connection attempt, as httpx offers it to `trace`.

    A name that led to a forbidden address is hung up on before the first byte, and so before the token. A
    handshake that our deadline cuts short is hung up on as well: httpx forgets that connection open.
    """

    def __init__(self) -> None:
        self._stream: Any = None

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Take one step of the attempt. Raises PollFailed if it leads to a forbidden address."""
        if event == "connection.connect_tcp.complete":
            self._stream = info["return_value"]
            if is_forbidden_address(self._stream.get_extra_info("server_addr")[0]):
                await self._stream.aclose()
                raise PollFailed("forbidden_address")
        elif event == "connection.start_tls.failed":
            await self._stream.aclose()


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
