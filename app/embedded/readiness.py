"""How `up` knows that the gateway serves: its address was free, it is green, its backends were asked."""

import asyncio
import http.client
import socket
from contextlib import suppress
from datetime import datetime
from typing import Final

from pydantic import SecretStr
from redis.exceptions import RedisError

from app.embedded import ports
from app.embedded.errors import AddressTaken
from db.redis.connection import connect_patient
from db.redis.model_table_read import ModelTableReader
from domain.model_table import ModelTable

PROBE_INTERVAL_S: Final = 0.05
PROBE_TIMEOUT_S: Final = 2.0
POLL_TIMEOUT_S: Final = 6.0  # a poll may take 5 s
_ANY_TO_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not bound  # nosec B104


def claimed_port(host: str, port: int) -> int:
    """Return the port the gateway can listen on there: the one asked for, or a free one for 0.

    Raises
    ------
    AddressTaken
        Somebody listens there already, or the address is not of this machine.
    """
    if port == 0:
        return ports.pick()
    try:
        (family, kind, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as exc:
        raise AddressTaken(
            f"The gateway cannot listen on {host} port {port} ({exc.strerror});"
            " choose another with --port or --host."
        ) from exc
    return port


def base_url(host: str, port: int) -> str:
    """Return the address a client on this machine uses."""
    name = reachable_host(host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def reachable_host(host: str) -> str:
    """Return where to reach something that listens on `host`."""
    return _ANY_TO_LOOPBACK.get(host, host)


async def until_green(host: str, port: int) -> None:
    """Wait until `/readyz` answers 200."""
    while not await asyncio.to_thread(_is_green, reachable_host(host), port):  # noqa: ASYNC110 - asked over HTTP
        await asyncio.sleep(PROBE_INTERVAL_S)


async def polled_models(redis_url: str, *, since: datetime) -> dict[str, tuple[str, ...]]:
    """Return the models by backend once they were polled after `since`, or as an earlier run left them.

    A poll that a killed worker had under way is repeated only when the queue notices; nobody needs to wait
    for that, as the gateway serves from the table it has.
    """
    redis = connect_patient(SecretStr(redis_url))
    table: ModelTable | None = None
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_TIMEOUT_S):
                while table is None or table.written_at < since:
                    table = await _table(ModelTableReader(redis)) or table
                    await asyncio.sleep(PROBE_INTERVAL_S)
    finally:
        await redis.aclose()
    backends = () if table is None else table.backends
    return {state.name: tuple(model.name for model in state.models) for state in backends}


async def _table(reader: ModelTableReader) -> ModelTable | None:
    try:
        return await reader.read_table()
    except (RedisError, OSError):
        return None


def _is_green(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
