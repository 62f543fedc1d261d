"""The whole way from a settled request to its row, while what it crosses dies."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import UUID

import anyio
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from app.embedded.process import kill, unprivileged_account
from app.embedded.server import Running, start
from app.embedded.valkey import ValkeyServer
from app.gateway.journal.entry import open_entry
from app.gateway.journal.journal import Journal
from app.gateway.journal.layout import JournalSize
from app.gateway.journal.ledger import UsageLedger, running_ledger
from app.gateway.journal.shipper import Pace
from db.redis.connection import connect_patient
from db.redis.usage_stream import AccountingStream, HolderStream, UsageStreamUnavailable
from db.usage import UsageRows
from domain.errors import LedgerFull
from tests.support.servers import PASSWORD
from tests.support.usage import admission, settlement
from worker.jobs.usage import account

QUICK = Pace(gather=0.005, confirm=0.02, retry_min=0.01, retry_max=0.05, sync=0.02, adopt=0.02, close=0.5)
SMALL = JournalSize(slots=32, ring_bytes=256 * 1024)
PATIENCE_S = 15.0  # the bound that the acceptance of accounting names


async def nobody() -> None:
    """Accounting runs by its own clock in these tests."""


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes, too
            await anyio.sleep(0.005)


@asynccontextmanager
async def ledger_on(directory: Path, redis: Redis) -> AsyncIterator[UsageLedger]:
    stream = HolderStream(redis, max_records=100_000, timeout_s=0.5)
    async with running_ledger(directory, stream=stream, enqueue=nobody, size=SMALL, pace=QUICK) as ledger:
        yield ledger


@asynccontextmanager
async def accounting(redis: Redis, engine: AsyncEngine) -> AsyncIterator[None]:
    """Run `usage.account` by the clock, as the worker does."""

    async def repeat() -> None:
        rows, stream = UsageRows(engine), AccountingStream(redis)
        while True:
            with suppress(UsageStreamUnavailable, OSError):
                await account(stream=stream, insert=rows.insert_batch)
            await anyio.sleep(0.02)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(repeat)
        yield
        tasks.cancel_scope.cancel()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_patient(SecretStr(redis_url)) as client:
        yield client


def settle(ledger: UsageLedger, count: int) -> set[UUID]:
    requests = [admission() for _ in range(count)]
    for request in requests:
        ledger.open(request).settle(settlement())
    return {request.request_id for request in requests}


async def rows(engine: AsyncEngine) -> list[tuple[UUID, str]]:
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT request_id, outcome FROM usage_records"))
        return [(row.request_id, row.outcome) for row in found]


def all_confirmed(ledger: UsageLedger) -> bool:
    return ledger.state().unconfirmed_records == 0


def all_shipped(ledger: UsageLedger) -> bool:
    return ledger.state().unshipped_records == 0


def files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def test_every_request_becomes_one_row_and_nothing_is_left(
    tmp_path: Path, redis: Redis, engine: AsyncEngine
) -> None:
    async with accounting(redis, engine), ledger_on(tmp_path, redis) as ledger:
        requests = settle(ledger, 30)
        await until(lambda: all_confirmed(ledger))

    assert sorted(requests) == sorted(request_id for request_id, _ in await rows(engine))
    assert files(tmp_path) == []


async def test_an_ending_process_ships_what_it_settled_last(
    tmp_path: Path, redis: Redis, engine: AsyncEngine
) -> None:
    async with accounting(redis, engine):
        async with ledger_on(tmp_path, redis) as ledger:
            requests = settle(ledger, 3)

        assert requests == {request_id for request_id, _ in await rows(engine)}
        assert files(tmp_path) == []


async def test_what_could_not_be_shipped_in_time_is_left_for_the_next_process(
    tmp_path: Path, redis: Redis, engine: AsyncEngine
) -> None:
    async with (
        connect_patient(SecretStr("redis://127.0.0.1:1/0")) as nowhere,
        ledger_on(tmp_path, nowhere) as ledger,
    ):
        requests = settle(ledger, 3)
        running = admission()
        ledger.open(running).progress(4)

    async with accounting(redis, engine), ledger_on(tmp_path, redis) as ledger:
        await until(lambda: len(files(tmp_path)) == 1)
        await until(lambda: all_confirmed(ledger))

    assert sorted(await rows(engine)) == sorted(
        [(request_id, "completed") for request_id in requests] + [(running.request_id, "lost")]
    )


class RestartableValkey:
    """A Valkey of one test, on one port, that keeps nothing."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running = self._start(None)
        self.url = self._server.url(self._running.port)

    def _start(self, port: int | None) -> Running:
        self._server = ValkeyServer(
            self._directory, password=PASSWORD, account=unprivileged_account(), durable=False
        )
        with (self._directory.parent / "log").open("ab") as log:
            return start(self._server, output=log, preferred_port=port)

    def kill(self) -> None:
        kill(self._running.child)

    def restart(self) -> None:
        self._running = self._start(self._running.port)

    def stop(self) -> None:
        self._running.stop()


@pytest.fixture
def valkey_of_this_test() -> Iterator[RestartableValkey]:
    with tempfile.TemporaryDirectory(prefix="nng-test-") as directory:
        server = RestartableValkey(Path(directory) / "data")
        yield server
        server.stop()


async def test_a_valkey_killed_and_wiped_costs_no_row(
    tmp_path: Path, valkey_of_this_test: RestartableValkey, engine: AsyncEngine
) -> None:
    async with (
        connect_patient(SecretStr(valkey_of_this_test.url)) as redis,
        ledger_on(tmp_path, redis) as ledger,
    ):
        before = settle(ledger, 20)
        await until(lambda: all_shipped(ledger))
        valkey_of_this_test.kill()
        during = settle(ledger, 20)
        valkey_of_this_test.restart()
        async with accounting(redis, engine):
            await until(lambda: all_confirmed(ledger))

    assert sorted(before | during) == sorted(request_id for request_id, _ in await rows(engine))


async def test_the_state_tells_what_is_open_and_unconfirmed(tmp_path: Path, redis: Redis) -> None:
    async with ledger_on(tmp_path, redis) as ledger:
        empty = ledger.state()
        ledger.open(admission())
        settle(ledger, 2)
        await until(lambda: all_shipped(ledger))
        state = ledger.state()

    assert (empty.open_records, empty.unconfirmed_records, empty.oldest_unconfirmed_age_s) == (0, 0, 0.0)
    assert (state.open_records, state.unconfirmed_records, state.is_full) == (1, 2, False)
    assert 0 < state.oldest_unconfirmed_age_s < PATIENCE_S
    assert state.ring_bytes_free < empty.ring_bytes_free


async def test_a_full_ledger_refuses_until_records_are_confirmed(
    tmp_path: Path, redis: Redis, engine: AsyncEngine
) -> None:
    async with ledger_on(tmp_path, redis) as ledger:
        while not ledger.state().is_full:
            settle(ledger, 1)
        with pytest.raises(LedgerFull):
            ledger.open(admission())

        async with accounting(redis, engine):
            await until(lambda: all_confirmed(ledger))

        ledger.open(admission()).settle(settlement())


async def test_a_disk_without_room_refuses_requests_and_nothing_else(redis: Redis) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        huge = JournalSize(slots=1, ring_bytes=2**50)
        stream = HolderStream(redis, max_records=1)
        with capture_logs() as logs:
            async with running_ledger(
                Path(directory), stream=stream, enqueue=nobody, size=huge, pace=QUICK
            ) as ledger:
                assert ledger.state().is_full
                with pytest.raises(LedgerFull):
                    ledger.open(admission())

    assert "journal_not_created" in {log["event"] for log in logs}


async def test_an_unusable_directory_stops_the_start(tmp_path: Path, redis: Redis) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(OSError, match="file"):
        async with ledger_on(tmp_path / "file", redis):
            pass


async def test_what_the_caller_raises_comes_out_as_it_is(tmp_path: Path, redis: Redis) -> None:
    with pytest.raises(LookupError):
        async with ledger_on(tmp_path, redis):
            raise LookupError


async def test_the_journal_of_a_dead_process_is_adopted_while_others_run(
    tmp_path: Path, redis: Redis, engine: AsyncEngine
) -> None:
    async with accounting(redis, engine), ledger_on(tmp_path, redis):
        dead = Journal.create(tmp_path, SMALL)
        request = admission()
        open_entry(dead, request)
        dead.close()

        await until(lambda: len(files(tmp_path)) == 1)

    assert await rows(engine) == [(request.request_id, "lost")]
