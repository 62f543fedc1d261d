"""Redis clients with explicit patience: the library's defaults retry for seconds and cut blocking reads."""

from collections.abc import Iterable

from pydantic import SecretStr
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.maint_notifications import MaintNotificationsConfig

from db.redis.sentinel import SentinelAddress, find_primary, is_primary, sentinel_address

_HOT_CONNECTIONS = 32
_PATIENT_CONNECTIONS = 64

# Longer than any blocking read we do (1 s), so that a time-out always means a dead server.
PATIENT_TIMEOUT_S = 10.0
_HEALTH_CHECK_INTERVAL_S = 15


def connect_hot(url: SecretStr, *, timeout_ms: int) -> Redis:
    """Return a client for questions that a request waits for. It returns bytes and connects on first use.

    One command, one connection attempt and the wait for a free connection may each take `timeout_ms`. Nothing
    is tried twice: a repeated script could count twice, and the caller has a policy for the outage.
    """
    timeout_s = timeout_ms / 1000
    return _connect(
        url, command_s=timeout_s, connect_s=timeout_s, wait_s=timeout_s, connections=_HOT_CONNECTIONS
    )


def connect_patient(url: SecretStr) -> Redis:
    """Return a client for background work: blocking reads, subscriptions, jobs. It returns bytes.

    Nothing is tried twice: every background loop has its own pause and comes back.
    """
    return _connect(
        url,
        command_s=PATIENT_TIMEOUT_S,
        connect_s=2.0,
        wait_s=PATIENT_TIMEOUT_S,
        connections=_PATIENT_CONNECTIONS,
    )


def own_channel(redis: Redis, name: str) -> str:
    """Return the channel of that name that belongs to the client's logical database.

    Messages know no databases: without its number in the name, two gateways that share a server would hear each
    other's news.
    """
    return f"{name}:{redis.connection_pool.connection_kwargs.get('db') or 0}"


def _connect(url: SecretStr, *, command_s: float, connect_s: float, wait_s: float, connections: int) -> Redis:
    behind = sentinel_address(url.get_secret_value())
    pool = BlockingConnectionPool.from_url(
        url.get_secret_value() if behind is None else behind.plain,
        max_connections=connections,
        timeout=wait_s,
        socket_timeout=command_s,
        socket_connect_timeout=connect_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=_HEALTH_CHECK_INTERVAL_S,
        # A handshake of managed services that Redis and Valkey themselves only answer with an error.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        decode_responses=False,
    )
    kind = pool.connection_class
    if behind is not None:
        kind = _of_primary(kind, behind, timeout_s=connect_s)
    pool.connection_class = _one_failure(kind)
    return Redis.from_pool(pool)


def _of_primary(
    kind: type[AbstractConnection], address: SentinelAddress, *, timeout_s: float
) -> type[AbstractConnection]:
    """Return a connection of that kind to whichever server is the primary when it is made."""

    class OfPrimary(kind):  # type: ignore[misc,valid-type] # which kind the address decides
        async def _connect(self) -> None:
            self.host, self.port = await find_primary(address, timeout_s=timeout_s)
            await super()._connect()

        async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - the signature is the library's
            await super().on_connect_check_health(check_health=check_health)
            await self.send_command("ROLE", check_health=False)
            if not is_primary(await self.read_response()):
                raise RedisConnectionError("the server is not the primary any more")

    return OfPrimary


def _one_failure(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """Return a connection of that kind which calls its end by one name, whoever notices it.

    uvloop answers a write to a connection that was closed a moment ago with a RuntimeError, which the library lets
    pass; nobody who is prepared for a lost connection would be prepared for that.
    """

    class OneFailure(kind):  # type: ignore[misc,valid-type] # which kind the address decides
        async def send_packed_command(
            self,
            command: bytes | str | Iterable[bytes],
            check_health: bool = True,  # noqa: FBT001, FBT002 - the signature is the library's
        ) -> None:
            try:
                await super().send_packed_command(command, check_health)
            except RuntimeError as exc:
                await self.disconnect(nowait=True)
                raise RedisConnectionError(
                    f"the connection was closed before it was written to ({exc})"
                ) from exc

    return OneFailure
