"""Fixtures every test may use: real servers, one event loop, and no way out of the machine."""

import signal
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from itertools import chain

import pytest
import redis
from sqlalchemy.ext.asyncio import AsyncEngine

from db import migrate
from db.postgres import create_engine
from tests.support.counts import cases_in, generated_inputs_counted
from tests.support.guard import keep_inside
from tests.support.servers import Databases, RedisDatabases, running_postgres, running_valkey

keep_inside()

# A shell starts what runs in the background with SIGINT ignored, and what a test starts inherits that. Whoever has a
# handler instead gives its children the default back.
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    and threading.current_thread() is threading.main_thread()
):
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Count generated inputs while a test runs."""
    with generated_inputs_counted(pyfuncitem):
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many cases there were of what repeats."""
    for what, cases in sorted(cases_in(chain(*terminalreporter.stats.values())).items()):
        terminalreporter.write_line(f"{cases:,} {what}")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """One loop for the whole session, of the kind the product runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def postgres() -> Iterator[Databases]:
    """Run a PostgreSQL for this process; `create()` makes a database."""
    with running_postgres() as databases:
        yield databases


@pytest.fixture
def empty_database_url(postgres: Databases) -> Iterator[str]:
    """Give the address of a database of this test's own, without any table."""
    url = postgres.create()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="session")
async def migrated_template(postgres: Databases) -> str:
    """Give the address of a migrated database nobody connects to."""
    url = postgres.create()
    await migrate.upgrade(url)
    return url


@pytest.fixture
def database_url(postgres: Databases, migrated_template: str) -> Iterator[str]:
    """Give the address of a migrated database of this test's own."""
    url = postgres.create(template=migrated_template)
    yield url
    postgres.drop(url)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Give the way to a migrated database of this test's own."""
    engine = create_engine(database_url, application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisDatabases]:
    """Run a Valkey for this process; `claim()` gives a longer-lived fixture its own logical database."""
    with running_valkey() as databases:
        yield databases


@pytest.fixture
def redis_url(valkey: RedisDatabases) -> str:
    """Give the address of an empty logical database."""
    url = valkey.url()
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url
