"""Which addresses behind a backend's name are dialled."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from app.gateway.upstream.dial import dial
from app.gateway.upstream.protocol import Connection
from app.gateway.upstream.request import parse_origin
from domain.errors import UpstreamFailed


class _Resolver(asyncio.SelectorEventLoop):
    """An event loop whose name service says what the test wants."""

    answers: tuple[str, ...] = ()

    async def getaddrinfo(self, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in self.answers]


def _unused() -> Connection:
    raise AssertionError("nothing may be connected")


def _dialled(answers: tuple[str, ...], make: Callable[[], Connection] = _unused) -> str:
    loop = _Resolver()
    loop.answers = answers
    origin = parse_origin("http://backend.example")
    try:
        loop.run_until_complete(dial(origin, make=make, connect_s=0.2, ssl_context=None))
    except UpstreamFailed as failure:
        return failure.kind
    finally:
        loop.close()
    return "connected"


@pytest.mark.parametrize("address", ["169.254.169.254", "0.0.0.0", "100.100.100.200"])  # noqa: S104
def test_a_name_that_leads_to_a_metadata_service_is_not_dialled(address: str) -> None:
    assert _dialled((address,)) == "forbidden_address"


def test_an_allowed_address_beside_a_forbidden_one_is_dialled() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert _dialled(("169.254.169.254", "127.0.0.1")) != "forbidden_address"
