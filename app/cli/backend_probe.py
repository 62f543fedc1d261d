"""Asking one Ollama server the two questions of the probe, the way the gateway would."""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final, Literal

import httpx
import msgspec

from domain.backends import (
    BackendSpec,
    BadAnswer,
    build_backend_headers,
    is_forbidden_address,
    parse_tags,
    parse_version,
)

SHOWN_MODELS: Final = 5
VERSION_PATH: Final = "/api/version"
TAGS_PATH: Final = "/api/tags"

_MAX_BODY_BYTES: Final = 8 * 1024 * 1024
_HTTP_OK: Final = 200

Result = Literal["ok", "transport_error", "http_status", "bad_answer"]


class Answer(msgspec.Struct, frozen=True):
    """What became of one question.

    `status` is the HTTP status if one came; `error` says which transport error it was. bad_answer: a 200 that
    is not what Ollama says there.
    """

    path: str
    result: Result
    status: int | None = None
    error: str | None = None


class Probe(msgspec.Struct, frozen=True):
    """One backend. `models` are the first few; of the token is told only whether one was sent."""

    name: str
    base_url: str
    token_attached: bool
    ok: bool
    version: str | None
    models: tuple[str, ...]
    model_count: int
    answers: tuple[Answer, ...]


class _NoAnswer(Exception):  # noqa: N818 - reads as what happened
    """Nothing came back. `kind` is a constant."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


async def probe(backend: BackendSpec, *, timeout_s: float, tls: ssl.SSLContext) -> Probe:
    """Ask one backend for its version and its models.

    Parameters
    ----------
    timeout_s
        How long each of the two answers may take.
    tls
        Whom https backends may be.
    """
    headers = build_backend_headers(backend)
    async with httpx.AsyncClient(
        verify=tls,
        trust_env=False,
        follow_redirects=False,
        timeout=timeout_s * 2,  # our own deadline is the one that counts
        headers={"user-agent": "neuronetz-gateway", "accept-encoding": "identity", **headers},
    ) as client:
        (version_answer, version_body), (tags_answer, tags_body) = await asyncio.gather(
            _ask(client, backend, VERSION_PATH, timeout_s), _ask(client, backend, TAGS_PATH, timeout_s)
        )
    version = None if version_body is None else parse_version(version_body)
    if version_body is not None and version is None:
        version_answer = Answer(VERSION_PATH, "bad_answer", _HTTP_OK)
    models: tuple[str, ...] = ()
    if tags_body is not None:
        try:
            models = tuple(model.name for model in parse_tags(tags_body, allow_cloud=backend.allow_cloud))
        except BadAnswer:
            tags_answer = Answer(TAGS_PATH, "bad_answer", _HTTP_OK)
    answers = (version_answer, tags_answer)
    return Probe(
        name=backend.name,
        base_url=backend.base_url,
        token_attached=bool(headers),
        ok=all(answer.result == "ok" for answer in answers),
        version=version,
        models=models[:SHOWN_MODELS],
        model_count=len(models),
        answers=answers,
    )


async def _ask(
    client: httpx.AsyncClient, backend: BackendSpec, path: str, timeout_s: float
) -> tuple[Answer, bytes | None]:
    try:
        async with (
            asyncio.timeout(timeout_s),
            client.stream("GET", backend.base_url + path, extensions={"trace": _refuse_forbidden}) as reply,
        ):
            if reply.status_code != _HTTP_OK:
                return Answer(path, "http_status", reply.status_code), None
            body = await _read(reply)
    except (TimeoutError, httpx.TimeoutException):
        return Answer(path, "transport_error", error="timeout"), None
    except _NoAnswer as nothing:
        return Answer(path, "transport_error", error=nothing.kind), None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as exc:
        return Answer(path, "transport_error", error=_kind(exc)), None
    if body is None:
        return Answer(path, "bad_answer", _HTTP_OK), None
    return Answer(path, "ok", _HTTP_OK), body


async def _read(reply: httpx.Response) -> bytes | None:
    body = bytearray()
    async for chunk in reply.aiter_raw():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            return None
    return bytes(body)


async def _refuse_forbidden(event: str, info: Mapping[str, Any]) -> None:
    """Hang up before the token is sent where a name led to a metadata service or the like."""
    if event == "connection.connect_tcp.complete":
        stream = info["return_value"]
        if is_forbidden_address(stream.get_extra_info("server_addr")[0]):
            await stream.aclose()
            raise _NoAnswer("forbidden_address")


_KINDS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (ssl.SSLError, "tls"),
    (socket.gaierror, "dns"),
    (ConnectionRefusedError, "connect_refused"),
)


def _kind(failure: BaseException) -> str:
    """Return a constant for a transport error: the kind of the first cause that has one."""
    fallback = "unreachable" if isinstance(failure, httpx.ConnectError | OSError) else "closed"
    waiting: list[BaseException] = [failure]
    while waiting:
        cause = waiting.pop()
        for error, kind in _KINDS:
            if isinstance(cause, error):
                return kind
        if isinstance(cause, BaseExceptionGroup):
            waiting.extend(cause.exceptions)
        waiting.extend(link for link in (cause.__cause__ or cause.__context__,) if link is not None)
    return fallback
