"""Fixtures every test may use: real servers, one event loop, and no way out of the machine."""

import os
import signal
import sys
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
from tests.support.homes import Home, Homes
from tests.support.servers import APP_ROLE, Databases, RedisDatabases, running_postgres, running_valkey
from tests.support.stoppable import StoppableValkey, stoppable_valkey

keep_inside()

# Where Python may not keep what it compiled, each of the many programs that tests start compiles all of it anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_LONGEST_FIRST = (
    "tests/journeys/test_kill_schedule.py",
    "tests/journeys/",
    "tests/app/cli/",
    "tests/app/embedded/",
    "tests/app/",
    "tests/db/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the modules that take longest, so that no process works on alone at the end."""

    def turn(item: pytest.Item) -> int:
        return next(
            (turn for turn, path in enumerate(_LONGEST_FIRST) if item.nodeid.startswith(path)),
            len(_LONGEST_FIRST),
        )

    items.sort(key=turn)


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
    await migrate.upgrade(url, app_role=APP_ROLE)
    return url


@pytest.fixture
def database_url(postgres: Databases, migrated_template: str) -> Iterator[str]:
    """Give the owner's address of a migrated database of this test's own."""
    url = postgres.create(template=migrated_template)
    yield url
    postgres.drop(url)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Give the way to a migrated database of this test's own, with the role of app and worker."""
    engine = create_engine(APP_ROLE.address(database_url), application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisDatabases]:
    """Run a Valkey for this process; `claimed()` gives what lives longer its own logical database."""
    with running_valkey() as databases:
        yield databases


@pytest.fixture
def redis_url(valkey: RedisDatabases) -> str:
    """Give the address of an empty logical database."""
    url = valkey.url()
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture(scope="session")
def homes(
    postgres: Databases,
    migrated_template: str,
    valkey: RedisDatabases,
    tmp_path_factory: pytest.TempPathFactory,
) -> Homes:
    """Give who makes homes for gateways, each of its own."""
    return Homes(postgres, migrated_template, valkey, tmp_path_factory)


@pytest.fixture(scope="module")
def home(homes: Homes) -> Iterator[Home]:
    """Give the home of a module's own gateway."""
    with homes.one() as home:
        yield home


@pytest.fixture(scope="module")
def own_valkey() -> Iterator[StoppableValkey]:
    """Run a Valkey that only this module uses, and may stop."""
    with stoppable_valkey() as valkey:
        yield valkey


@pytest.fixture(scope="module")
def own_home(homes: Homes, own_valkey: StoppableValkey) -> Iterator[Home]:
    """Give the home of a module's own gateway, in a Valkey that may be stopped."""
    with homes.one(redis_url=own_valkey.url) as home:
        yield home
