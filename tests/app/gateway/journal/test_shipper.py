from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.gateway.journal.entry import open_entry
from app.gateway.journal.journal import Journal
from app.gateway.journal.layout import JournalSize
from app.gateway.journal.shipper import BATCH_RECORDS, Pace, Shipper
from db.redis.connection import connect_patient
from db.redis.usage_stream import STREAM, AccountingStream, HolderStream, read_backlog
from domain.usage import UsageRecord
from tests.support.usage import admission, settlement

EAGER = Pace(gather=0.001, confirm=0.0, retry_min=0.001, retry_max=0.01)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_patient(SecretStr(redis_url)) as client:
        yield client


@pytest.fixture
def worker(redis: Redis) -> AccountingStream:
    return AccountingStream(redis)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.create(tmp_path, JournalSize(slots=4, ring_bytes=1024 * 1024))
    yield journal
    journal.close()


class Orders:
    """Counts how often accounting was asked for; `failure` is what asking raises."""

    def __init__(self) -> None:
        self.count = 0
        self.failure: Exception | None = None

    async def __call__(self) -> None:
        self.count += 1
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def orders() -> Orders:
    return Orders()


def make_shipper(
    journal: Journal, redis: Redis, orders: Orders, *, max_records: int = 100_000, adopted: bool = False
) -> Shipper:
    shipper = Shipper(HolderStream(redis, max_records=max_records), orders, EAGER)
    shipper.hold(journal, adopted=adopted)
    return shipper


def settle(journal: Journal, count: int = 1) -> list[UUID]:
    requests = [admission() for _ in range(count)]
    for request in requests:
        open_entry(journal, request).settle(settlement())
    return [request.request_id for request in requests]


async def shipped(worker: AccountingStream) -> list[UUID]:
    return [
        record.admission.request_id
        for entry in await worker.oldest(100)
        for record in msgspec.msgpack.decode(entry.payload, type=list[UsageRecord])
    ]


async def test_settled_records_go_out_in_batches_and_accounting_is_asked_for_once(
    journal: Journal, redis: Redis, worker: AccountingStream, orders: Orders
) -> None:
    shipper = make_shipper(journal, redis, orders)
    requests = settle(journal, BATCH_RECORDS + 1)

    await shipper.ship()

    assert await shipped(worker) == requests
    assert len(await worker.oldest(10)) == 2
    assert orders.count == 1


async def test_nothing_new_asks_for_nothing(
    journal: Journal, redis: Redis, worker: AccountingStream, orders: Orders
) -> None:
    shipper = make_shipper(journal, redis, orders)
    settle(journal)
    await shipper.ship()

    await shipper.ship()

    assert len(await worker.oldest(10)) == 1
    assert orders.count == 1


async def test_only_the_unbroken_prefix_of_confirmed_batches_is_freed(
    journal: Journal, redis: Redis, worker: AccountingStream, orders: Orders
) -> None:
    shipper = make_shipper(journal, redis, orders)
    for _ in range(3):
        settle(journal)
        await shipper.ship()
    first, second, third = await worker.oldest(10)

    await worker.finish(second)
    await shipper.ship()
    freed_after_second = journal.first_number - 1
    await worker.finish(first)
    await shipper.ship()
    freed_after_first = journal.first_number - 1
    await worker.finish(third)
    await shipper.ship()

    assert (freed_after_second, freed_after_first, journal.first_number - 1) == (0, 2, 3)


async def test_redis_forgets_what_the_holder_has_freed(
    journal: Journal, redis: Redis, worker: AccountingStream, orders: Orders
) -> None:
    shipper = make_shipper(journal, redis, orders)
    settle(journal)
    await shipper.ship()
    await worker.finish((await worker.oldest(1))[0])
    await shipper.ship()

    await shipper.ship()

    assert await redis.keys("nng:usage:holding:*") == []


async def test_what_a_wiped_redis_lost_is_sent_again(
    journal: Journal, redis: Redis, worker: AccountingStream, orders: Orders
) -> None:
    shipper = make_shipper(journal, redis, orders)
    requests = settle(journal, 3)
    await shipper.ship()
    await redis.flushdb()

    await shipper.ship()

    assert await shipped(worker) == requests
    assert orders.count == 2


async def test_a_waiting_batch_is_not_sent_again(
    journal: Journal, redis: Redis, worker: AccountingStream
) -> None:
    orders = Orders()
    doubting = Shipper(HolderStream(redis, max_records=10), orders, Pace(confirm=0.0, doubt=0.0))
    doubting.hold(journal, adopted=False)
    settle(journal)

    for _ in range(3):
        await doubting.ship()

    assert len(await worker.oldest(10)) == 1


async def test_a_doubted_batch_that_left_the_stream_is_sent_again(
    journal: Journal, redis: Redis, worker: AccountingStream
) -> None:
    doubting = Shipper(HolderStream(redis, max_records=10), Orders(), Pace(confirm=0.0, doubt=0.0))
    doubting.hold(journal, adopted=False)
    requests = settle(journal)
    await doubting.ship()
    await redis.delete(STREAM)

    await doubting.ship()

    assert await shipped(worker) == requests


async def test_a_backlog_pauses_shipping_and_the_journal_keeps_the_rest(
    journal: Journal, redis: Redis, worker: AccountingStream, orders: Orders
) -> None:
    shipper = make_shipper(journal, redis, orders, max_records=2)
    requests = []
    with capture_logs() as logs:
        for _ in range(5):
            requests += settle(journal)
            await shipper.ship()
        waiting = (await read_backlog(redis)).records
        unshipped = shipper.holdings[0].unshipped
        while (entries := await worker.oldest(1)) or journal.next_number != journal.first_number:
            for entry in entries:
                await worker.finish(entry)
            await shipper.ship()

    assert (waiting, unshipped) == (2, 3)
    assert [log["event"] for log in logs] == ["usage_shipping_paused", "usage_shipping_resumed"]


async def test_trouble_with_redis_loses_nothing_and_is_told_once(
    journal: Journal, redis: Redis, worker: AccountingStream, orders: Orders
) -> None:
    shipper = make_shipper(journal, redis, orders)
    requests = settle(journal, 2)
    await redis.set(STREAM, "in the way")
    with capture_logs() as logs:
        for _ in range(3):
            await shipper.ship()
        await redis.delete(STREAM)

        await shipper.ship()

    assert await shipped(worker) == requests
    assert [log["event"] for log in logs] == ["usage_shipping_paused", "usage_shipping_resumed"]


async def test_a_batch_nobody_can_read_is_kept_in_a_file_and_blocks_no_other(
    journal: Journal, redis: Redis, worker: AccountingStream, orders: Orders
) -> None:
    shipper = make_shipper(journal, redis, orders)
    for _ in range(2):
        settle(journal)
        await shipper.ship()
    dead, sound = await worker.oldest(2)
    batch = journal.cut(journal.tail, 1, 1)
    assert batch is not None
    [payload] = journal.payloads(batch)
    await worker.set_aside(dead, reason="not readable", payload=b"")
    await worker.finish(sound)

    await shipper.ship()

    [kept] = journal.path.parent.glob("*.rejected")
    assert kept.read_bytes() == payload
    assert journal.first_number == 3


async def test_an_adopted_journal_is_deleted_when_everything_is_confirmed(
    tmp_path: Path, redis: Redis, worker: AccountingStream, orders: Orders
) -> None:
    journal = Journal.create(tmp_path, JournalSize(slots=1, ring_bytes=64 * 1024))
    settle(journal, 3)
    shipper = make_shipper(journal, redis, orders, adopted=True)
    await shipper.ship()
    assert journal.path.exists()

    await worker.finish((await worker.oldest(1))[0])
    await shipper.ship()

    assert not journal.path.exists()
    assert shipper.holdings == ()


async def test_accounting_that_cannot_be_ordered_does_not_stop_shipping(
    journal: Journal, redis: Redis, worker: AccountingStream, orders: Orders
) -> None:
    shipper = make_shipper(journal, redis, orders)
    orders.failure = ConnectionError()
    requests = settle(journal)

    await shipper.ship()

    assert await shipped(worker) == requests


async def test_two_holds_of_one_journal_never_share_a_name(journal: Journal, redis: Redis) -> None:
    names = {make_shipper(journal, redis, Orders()).holdings[0].name for _ in range(2)}

    assert len(names) == 2
