"""Running exchanges: cut for one reason, drained in order, never waited for without end."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from app.gateway.downstream import HEARTBEAT, JSON, Downstream
from app.gateway.exchanges import CutReason, Exchange, Exchanges, Subject
from domain.model_names import canonical
from tests.support.clock import Clock
from tests.support.waiting import until

WRITE_TIMEOUT_S = 30.0
HEARTBEAT_S = 15.0


class Client:
    """The far end of one exchange: takes what is written while `takes` is set, and may leave."""

    def __init__(self) -> None:
        self.takes = asyncio.Event()
        self.takes.set()
        self.left = asyncio.Event()
        self.got: list[bytes] = []

    async def send(self, event: Any) -> None:
        await self.takes.wait()
        self.got.append(event.get("body", b""))

    async def receive(self) -> Any:
        await self.left.wait()
        return {"type": "http.disconnect"}


def subject() -> Subject:
    name = canonical("m:1")
    assert name is not None
    return Subject(uuid4(), uuid4(), (b"digest",), name, lambda: None)


class World:
    """Exchanges that wait for their answer and say goodbye when they are cut."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.exchanges = Exchanges(write_timeout_s=WRITE_TIMEOUT_S, heartbeat_s=HEARTBEAT_S, now=self.clock)
        self.reasons: list[CutReason | None] = []

    async def run(self, client: Client, answered: asyncio.Event) -> None:
        """Be one exchange."""
        downstream = Downstream(client.send, request_id=b"id")
        running, task = self.exchanges.start(downstream, client.receive, subject())
        try:
            await downstream.start(200, JSON)
            await answered.wait()
            await downstream.finish(b"answer")
        except asyncio.CancelledError:
            task.uncancel()
            self.reasons.append(running.reason)
            await downstream.finish(b"goodbye")
        finally:
            self.exchanges.remove(running)

    def start(self, client: Client | None = None) -> "tuple[asyncio.Task[None], Client, asyncio.Event]":
        client, answered = client or Client(), asyncio.Event()
        return asyncio.create_task(self.run(client, answered)), client, answered

    def only(self) -> Exchange:
        (exchange,) = self.exchanges
        return exchange


@pytest.fixture
async def world() -> World:
    return World()


async def test_what_runs_is_counted_until_it_ends(world: World) -> None:
    (first, _, first_answered), (second, _, second_answered) = world.start(), world.start()
    await until(lambda: len(world.exchanges) == 2, within_s=5)

    first_answered.set()
    await first
    assert len(world.exchanges) == 1
    second_answered.set()
    await second
    assert len(world.exchanges) == 0


async def test_only_the_first_reason_cuts(world: World) -> None:
    task, _, _ = world.start()
    await until(lambda: len(world.exchanges) == 1, within_s=5)
    exchange = world.only()

    exchange.cut(CutReason.REVOKED)
    exchange.cut(CutReason.DRAINING)
    await task

    assert world.reasons == [CutReason.REVOKED]


async def test_an_ended_exchange_cannot_be_cut(world: World) -> None:
    task, client, answered = world.start()
    await until(lambda: len(world.exchanges) == 1, within_s=5)
    exchange = world.only()
    answered.set()
    await task

    exchange.cut(CutReason.REVOKED)
    exchange.abandon()
    exchange.watch_client()

    assert exchange.reason is None
    assert client.got[-1] == b"answer"


async def test_a_client_that_leaves_cuts_its_exchange_and_no_other(world: World) -> None:
    leaving, client, _ = world.start()
    staying, _, answered = world.start()
    await until(lambda: len(world.exchanges) == 2, within_s=5)

    client.left.set()
    await leaving

    assert world.reasons == [CutReason.CLIENT_GONE]
    assert len(world.exchanges) == 1
    answered.set()
    await staying


async def test_t21_a_client_that_takes_nothing_for_thirty_seconds_is_cut(world: World) -> None:
    client = Client()
    client.takes.clear()
    task, _, _ = world.start(client)
    await until(lambda: len(world.exchanges) == 1 and world.only().downstream.writing_since > 0, within_s=5)

    world.clock.at = world.only().downstream.writing_since + WRITE_TIMEOUT_S
    world.exchanges.cut_stalled()
    assert world.only().reason is None
    world.clock.at += 0.001
    world.exchanges.cut_stalled()

    assert world.only().reason is CutReason.WRITE_STALLED
    client.takes.set()
    await task


async def test_t21_a_client_that_does_not_even_take_its_goodbye_is_abandoned(world: World) -> None:
    client = Client()
    task, _, _ = world.start(client)
    await until(lambda: len(world.exchanges) == 1, within_s=5)
    client.takes.clear()
    world.only().cut(CutReason.REVOKED)
    await until(lambda: world.only().downstream.writing_since > 0, within_s=5)

    world.clock.at = world.only().downstream.writing_since + WRITE_TIMEOUT_S + 0.001
    world.exchanges.cut_stalled()
    await asyncio.wait([task], timeout=5)

    assert task.cancelled()
    assert len(world.exchanges) == 0


async def test_an_exchange_that_waits_for_its_backend_is_not_stalled(world: World) -> None:
    task, _, answered = world.start()
    await until(lambda: len(world.exchanges) == 1, within_s=5)
    world.clock.at = 1e12

    world.exchanges.cut_stalled()

    assert world.only().reason is None
    answered.set()
    await task


async def test_the_watch_finds_stalled_writes_by_itself(world: World) -> None:
    client = Client()
    client.takes.clear()
    task, _, _ = world.start(client)
    watching = asyncio.create_task(world.exchanges.watch())
    world.clock.at = 1e12

    await until(lambda: len(world.exchanges) == 1 and world.only().reason is not None, within_s=5)

    client.takes.set()
    await task
    watching.cancel()
    await asyncio.wait([watching])


async def test_a_client_is_told_after_fifteen_silent_seconds_that_its_answer_is_waited_for(
    world: World,
) -> None:
    task, client, answered = world.start()
    await until(lambda: len(client.got) == 1, within_s=5)
    downstream = world.only().downstream
    downstream.allow_heartbeats()

    world.clock.at = downstream.quiet_since + HEARTBEAT_S - 0.001
    world.exchanges.beat()
    assert not downstream.writing_since
    world.clock.at += 0.001
    world.exchanges.beat()
    answered.set()
    await task

    assert client.got[1:] == [HEARTBEAT, b"answer"]


async def test_an_exchange_that_was_cut_beats_no_more(world: World) -> None:
    task, client, _ = world.start()
    await until(lambda: len(client.got) == 1, within_s=5)
    exchange = world.only()
    exchange.downstream.allow_heartbeats()
    exchange.cut(CutReason.REVOKED)
    world.clock.at = 1e12

    world.exchanges.beat()
    await task

    assert client.got[1:] == [b"goodbye"]


async def test_t21_a_client_that_does_not_even_take_a_heartbeat_is_cut(world: World) -> None:
    task, client, _ = world.start()
    await until(lambda: len(client.got) == 1, within_s=5)
    client.takes.clear()
    downstream = world.only().downstream
    downstream.allow_heartbeats()
    world.clock.at = 1e12

    world.exchanges.beat()
    world.exchanges.cut_stalled()

    assert world.only().reason is CutReason.WRITE_STALLED
    client.takes.set()
    await task


async def test_a_drain_with_nothing_running_ends_at_once(world: World) -> None:
    await asyncio.wait_for(world.exchanges.drain(3600), 5)

    assert world.exchanges.draining


async def test_a_drain_waits_for_what_runs(world: World) -> None:
    task, client, answered = world.start()
    await until(lambda: len(world.exchanges) == 1, within_s=5)

    draining = asyncio.create_task(world.exchanges.drain(3600))
    await until(lambda: world.exchanges.draining, within_s=5)
    assert not draining.done()
    answered.set()
    await asyncio.wait_for(draining, 5)

    assert task.done()
    assert world.reasons == []
    assert client.got[-1] == b"answer"


async def test_f27_until_its_end_a_drain_takes_what_arrives(world: World) -> None:
    task, _, answered = world.start()
    await until(lambda: len(world.exchanges) == 1, within_s=5)

    draining = asyncio.create_task(world.exchanges.drain(3600))
    await until(lambda: world.exchanges.draining, within_s=5)
    assert not world.exchanges.closed
    answered.set()
    await asyncio.gather(draining, task)

    assert world.exchanges.closed


async def test_f27_a_drain_cuts_what_outlasts_it_and_waits_for_the_goodbyes(world: World) -> None:
    tasks = [world.start() for _ in range(3)]
    await until(lambda: len(world.exchanges) == 3, within_s=5)

    await asyncio.wait_for(world.exchanges.drain(0.01), 5)

    assert world.reasons == [CutReason.DRAINING] * 3
    assert [client.got[-1] for _, client, _ in tasks] == [b"goodbye"] * 3
    await asyncio.gather(*(task for task, _, _ in tasks))


async def test_f27_a_client_that_takes_no_goodbye_does_not_hold_up_the_drain(world: World) -> None:
    stuck, client, _ = world.start()
    polite, other, _ = world.start()
    await until(lambda: len(world.exchanges) == 2, within_s=5)
    client.takes.clear()

    await asyncio.wait_for(world.exchanges.drain(0.01, goodbye_s=0.05), 5)

    await asyncio.wait([stuck, polite])
    assert stuck.cancelled()
    assert other.got[-1] == b"goodbye"
