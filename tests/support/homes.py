"""Where a gateway of the tests keeps everything, and how it is run there."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.support.gateway import Gateway
from tests.support.ollama import SimulatedOllama
from tests.support.servers import Databases, RedisDatabases


class Home(msgspec.Struct, frozen=True):
    """A migrated database, an empty Valkey and a directory."""

    database_url: str
    redis_url: str
    directory: Path

    def gateway(
        self,
        backends: Sequence[SimulatedOllama],
        *,
        settings: Mapping[str, str] | None = None,
        described: Mapping[str, Mapping[str, object]] | None = None,
    ) -> Gateway:
        """Return a gateway that lives here, not started yet."""
        return Gateway(
            database_url=self.database_url,
            redis_url=self.redis_url,
            backends=backends,
            directory=self.directory,
            settings=settings,
            described=described,
        )

    @asynccontextmanager
    async def running(
        self,
        *backends: SimulatedOllama,
        settings: Mapping[str, str] | None = None,
        described: Mapping[str, Mapping[str, object]] | None = None,
    ) -> AsyncIterator[Gateway]:
        """Run a gateway over these backends until the block ends, the backends included."""
        async with AsyncExitStack() as stack:
            for backend in backends:
                stack.push_async_callback(backend.stop)
            gateway = self.gateway(backends, settings=settings, described=described)
            stack.push_async_callback(gateway.aclose)
            await gateway.start()
            yield gateway


class Homes:
    """Makes homes that nobody else has."""

    def __init__(
        self, postgres: Databases, template: str, valkey: RedisDatabases, paths: pytest.TempPathFactory
    ) -> None:
        self._postgres = postgres
        self._template = template
        self._valkey = valkey
        self._paths = paths

    @contextmanager
    def one(self, *, redis_url: str | None = None) -> Iterator[Home]:
        """Give one for the length of a block; it is in the Valkey that all share unless another is named."""
        with ExitStack() as stack:
            database_url = self._postgres.create(template=self._template)
            stack.callback(self._postgres.drop, database_url)
            yield Home(
                database_url,
                redis_url or stack.enter_context(self._valkey.claimed()),
                self._paths.mktemp("home"),
            )
