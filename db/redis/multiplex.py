"""One connection that all requests of a process share: for scripts that every request waits for.

A pool gives each command a connection of its own, and with it a round of bookkeeping. Here the commands of one
turn of the event loop leave in one write, and answers find their askers by order alone. Nothing is sent twice.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
from pydantic import SecretStr
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from db.redis.sentinel import find_primary, is_primary, sentinel_address

_DEFAULT_PORT: Final = 6379
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
# A loop that was busy elsewhere runs its timers before it reads: an answer may be waiting in the socket.
_GRACE_S: Final = 0.002
_LAZY_S: Final = 0.001
"""What a command that nobody waits for may wait for company."""

_Argument = str | int | float | bytes
_Waiting = tuple["asyncio.Future[object]", float]


class RedisAway(RedisConnectionError):  # noqa: N818 - a state of the world, not a mistake
    """Redis did not answer in time or is out of reach. Whether it acted upon the command is not known."""


class RedisUnreached(RedisAway):
    """There was no connection: the command was never sent."""


class RedisRefused(RedisUnreached):
    """Nobody listens where Redis should be."""


class RedisScript:
    """A script that is sent by its digest."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class MultiplexedRedis:
    """One connection, made by the first call and made again by the first call after it broke.

    While Redis is away one call at a time tries to reach it, after a pause that grows to a second; every other
    call fails at once.

    Parameters
    ----------
    url
        `redis://`, `rediss://` or `unix://`, with the options that redis-py knows, or that of a primary behind
        Sentinels (`db/redis/sentinel.py`).
    timeout_s
        What one call may take; connecting, where it is needed, may take as long before it. The oldest
        unanswered call that takes longer breaks the connection.
    """

    def __init__(self, url: SecretStr, *, timeout_s: float) -> None:
        self._url = url
        self.timeout_s: Final = timeout_s
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link] | None = None
        self._pause_s = 0.0
        self._closed_until = 0.0

    async def call(self, *args: _Argument) -> object:
        """Send one command and return its answer; texts come as bytes.

        Raises
        ------
        RedisAway
            No answer in time, or no connection.
        redis.exceptions.ResponseError
            Redis refused the command.
        """
        link = self._link
        if link is None or link.broken:
            link = await self._connected()
        answer = await link.ask(_packed(args))
        if isinstance(answer, hiredis.ReplyError):
            raise _refusal(answer)
        return answer

    async def run(self, script: RedisScript, keys: tuple[_Argument, ...], *args: _Argument) -> object:
        """Run a script and return its answer; raise as `call` does. A Redis that does not know it learns it."""
        # What `call` does, without a coroutine of its own: every limited request passes here.
        link = self._link
        if link is None or link.broken:
            link = await self._connected()
        answer = await link.ask(_packed(("EVALSHA", script.sha, len(keys), *keys, *args)))
        if not isinstance(answer, hiredis.ReplyError):
            return answer
        refusal = _refusal(answer)
        if isinstance(refusal, NoScriptError):
            return await self.call("EVAL", script.source, len(keys), *keys, *args)
        raise refusal

    def run_soon(
        self,
        script: RedisScript,
        keys: tuple[_Argument, ...],
        *args: _Argument,
        on_answer: Callable[["asyncio.Future[object]"], None],
        lazily: bool = True,
    ) -> bool:
        """Run a script that nobody waits for; return False if there is no connection and nothing was done.

        `lazily` it leaves with the next command that somebody waits for, or a moment later by itself. `on_answer` gets
        the answer's future, which may hold a failure, or an error of Redis as its value.
        """
        link = self._link
        if link is None or link.broken:
            return False
        command = _packed(("EVALSHA", script.sha, len(keys), *keys, *args))
        link.ask(command, lazily=lazily).add_done_callback(on_answer)
        return True

    def send_on(self, script: RedisScript, keys: tuple[_Argument, ...], *args: _Argument) -> None:
        """Run a script behind all that was sent before, without waiting; lost if the connection is."""
        if self._link is not None and not self._link.broken:
            # By its text: nobody would hear that Redis does not know it. It is rare.
            command = ("EVAL", script.source, len(keys), *keys, *args)
            # The loop complains about failures that nobody collects; nobody will.
            self._link.ask(_packed(command)).add_done_callback(_collect)

    async def aclose(self) -> None:
        """Close the connection; calls that still wait fail. A later call would connect again."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        link, self._link = self._link, None
        if link is not None:
            link.give_up("closed")
            await link.closed.wait()

    async def _connected(self) -> "_Link":
        if self._connecting is not None:
            if self._pause_s:
                raise RedisUnreached("Redis is away; another request is trying to reach it")
            return await asyncio.shield(self._connecting)
        if asyncio.get_running_loop().time() < self._closed_until:
            raise RedisUnreached("Redis was out of reach a moment ago")
        self._connecting = asyncio.create_task(self._connect())
        self._connecting.add_done_callback(_collect)
        # Whoever asks may leave; the attempt goes on for the others.
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> "_Link":
        try:
            async with asyncio.timeout(self.timeout_s):
                self._link = await _opened(self._url, timeout_s=self.timeout_s, on_silence=self._pause)
        except (ConnectionRefusedError, FileNotFoundError) as exc:
            self._pause()
            raise RedisRefused("nobody listens there") from exc
        except (OSError, TimeoutError, ResponseError, RedisAway) as exc:
            self._pause()
            raise RedisUnreached(f"Redis is out of reach ({type(exc).__name__})") from exc
        else:
            self._pause_s = 0.0
            return self._link
        finally:
            self._connecting = None

    def _pause(self) -> None:
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self._closed_until = asyncio.get_running_loop().time() + self._pause_s


class _Link(asyncio.Protocol):
    """One connection while it lasts. Once `broken` it is of no further use."""

    def __init__(self, *, timeout_s: float, on_silence: Callable[[], None]) -> None:
        self.broken = False
        self.closed = asyncio.Event()
        self._timeout_s = timeout_s
        self._on_silence = on_silence
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._waiting: deque[_Waiting] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._flushing = False
        self._warned: asyncio.Future[object] | None = None

    def ask(self, command: bytes, *, lazily: bool = False) -> "asyncio.Future[object]":
        """Return where the answer will be. Abandoning it is fine: its answer is passed over.

        Commands leave in the order in which they were asked, all that wait at once; `lazily` lets them wait longer.
        """
        future: asyncio.Future[object] = self._loop.create_future()
        if self.broken:
            future.set_exception(RedisAway("the connection to Redis broke"))
            return future
        now = self._loop.time()
        self._waiting.append((future, now + self._timeout_s))
        if self._watch is None:
            self._watch = self._loop.call_at(now + self._timeout_s, self._look)
        self._unsent.append(command)
        if lazily:
            if len(self._unsent) == 1:
                self._loop.call_later(_LAZY_S, self._flush)
        elif len(self._waiting) == 1:
            # Redis has nothing to do and this process little: nothing is gained by waiting for company.
            self._flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return future

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self.broken:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            # The reader's False stands for "not complete yet"; no RESP2 answer is a boolean.
            while (answer := self._reader.gets()) is not False:
                future, _ = self._waiting.popleft()
                if not future.done():
                    future.set_result(answer)
        except (hiredis.ProtocolError, IndexError):
            self.give_up("not the protocol of Redis")

    def connection_lost(self, exc: Exception | None) -> None:
        self.give_up(type(exc).__name__ if exc else "closed by Redis")
        self.closed.set()

    def give_up(self, why: str) -> None:
        """Fail all that wait and close."""
        if self.broken:
            return
        self.broken = True
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(RedisAway(f"the connection to Redis broke: {why}"))

    def _flush(self) -> None:
        self._flushing = False
        if not self.broken and self._transport is not None and self._unsent:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _look(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        oldest, deadline = self._waiting[0]
        now = self._loop.time()
        if now < deadline:
            self._watch = self._loop.call_at(deadline, self._look)
        elif self._warned is not oldest:
            self._warned = oldest
            self._watch = self._loop.call_at(now + _GRACE_S, self._look)
        else:
            self._on_silence()
            self.give_up(f"no answer within {self._timeout_s * 1000:.0f} ms")


async def _opened(url: SecretStr, *, timeout_s: float, on_silence: Callable[[], None]) -> _Link:
    """Return a connection that is signed in and in its logical database."""
    behind = sentinel_address(url.get_secret_value())
    options: dict[str, Any] = dict(parse_url(url.get_secret_value() if behind is None else behind.plain))
    if behind is not None:
        options["host"], options["port"] = await find_primary(behind, timeout_s=timeout_s)
    kind = options.pop("connection_class", None)
    loop = asyncio.get_running_loop()
    link = _Link(timeout_s=timeout_s, on_silence=on_silence)
    try:
        if "path" in options:
            await loop.create_unix_connection(lambda: link, options["path"])
        else:
            tls = SSLConnection(**options).ssl_context.get() if kind is SSLConnection else None
            host, port = options.get("host", "localhost"), options.get("port", _DEFAULT_PORT)
            await loop.create_connection(lambda: link, host, port, ssl=tls)
        if "password" in options:
            user = (options["username"],) if options.get("username") else ()
            await _handshake(link, "AUTH", *user, options["password"])
        # Also where it changes nothing: a server that hangs accepts connections all the same.
        await _handshake(link, "SELECT", options.get("db", 0))
        if behind is not None:
            _refuse_replica(await _handshake(link, "ROLE"))
    except BaseException:
        # Whoever gives up while a connection is being made may leave one that was made.
        link.give_up("the handshake failed")
        raise
    return link


def _refuse_replica(role: object) -> None:
    if not is_primary(role):
        raise RedisUnreached("the server is not the primary any more")


async def _handshake(link: _Link, *command: _Argument) -> object:
    answer = await link.ask(_packed(command))
    if isinstance(answer, hiredis.ReplyError):
        raise _refusal(answer)
    return answer


def _packed(command: tuple[_Argument, ...]) -> bytes:
    # Its stub speaks of a tuple of one.
    return cast("bytes", hiredis.pack_command(cast("Any", command)))


def _refusal(answer: Exception) -> ResponseError:
    text = str(answer)
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)


def _collect(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()
