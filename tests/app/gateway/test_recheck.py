"""Running exchanges that a revocation names are asked about until somebody can answer, and cut if refused."""

import asyncio
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from litestar.types import Receive

from app.gateway.downstream import Downstream
from app.gateway.exchanges import CutReason, Exchange, Exchanges, Subject
from app.gateway.recheck import Recheck
from domain.errors import Unavailable
from domain.model_names import canonical
from tests.support.waiting import until

TENANT, KEY, OTHER = uuid4(), uuid4(), uuid4()


class World:
    """Two exchanges of a key and one of another key of the same tenant, and somebody to ask about them."""

    def __init__(self) -> None:
        self.exchanges = Exchanges(write_timeout_s=30, heartbeat_s=15)
        self.asked: list[UUID] = []
        self.answers: list[CutReason | Exception | None] = [None]
        self.counted: list[CutReason] = []
        self.recheck = Recheck(self.exchanges, self._objection, on_cut=self.counted.append)
        self.tasks = [self._run(KEY), self._run(KEY), self._run(OTHER)]

    async def _objection(self, subject: Subject) -> CutReason | None:
        self.asked.append(subject.key_id)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _run(self, key_id: UUID) -> "asyncio.Task[CutReason | None]":
        name = canonical("llama3.2")
        assert name is not None
        subject = Subject(key_id, TENANT, (b"digest",), name, lambda: None)

        async def exchange() -> CutReason | None:
            running, task = self.exchanges.start(Downstream(_send, request_id=b""), _receive, subject)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                task.uncancel()
            finally:
                self.exchanges.remove(running)
            return running.reason

        return asyncio.create_task(exchange())

    async def reasons(self) -> list[CutReason | None]:
        """Return why each ended, None for those that run on; end them all."""
        await self.recheck.done()
        await asyncio.sleep(0)
        reasons = [task.result() if task.done() else None for task in self.tasks]
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks)
        return reasons


async def _send(_: object) -> None:
    """Take what is sent."""


async def _never() -> None:
    await asyncio.Event().wait()


_receive: Receive = _never  # type: ignore[assignment] # nobody leaves here


@pytest.fixture
async def world() -> World:
    world = World()
    await until(lambda: len(world.exchanges) == 3, within_s=5)
    return world


async def test_only_exchanges_of_the_named_key_are_asked_about_and_cut(world: World) -> None:
    world.answers = [CutReason.REVOKED]

    world.recheck.drop_key(KEY, ended=False)

    assert await world.reasons() == [CutReason.REVOKED, CutReason.REVOKED, None]
    assert world.asked == [KEY, KEY]


@pytest.mark.parametrize("drop", [lambda recheck: recheck.drop_tenant(TENANT, ended=False), Recheck.drop_all])
async def test_a_tenant_and_everybody_mean_all_exchanges(
    world: World, drop: Callable[[Recheck], None]
) -> None:
    drop(world.recheck)
    await world.recheck.done()

    assert sorted(world.asked) == sorted([KEY, KEY, OTHER])
    assert await world.reasons() == [None, None, None]


async def test_another_tenant_is_nobody_here(world: World) -> None:
    world.recheck.drop_tenant(uuid4(), ended=False)

    assert world.recheck.is_done


async def test_what_was_cut_is_counted_with_its_reason(world: World) -> None:
    world.answers = [CutReason.FORBIDDEN]
    world.recheck.drop_key(OTHER, ended=False)
    await world.reasons()

    assert world.counted == [CutReason.FORBIDDEN]


async def test_while_nobody_answers_the_question_is_put_again(world: World) -> None:
    world.answers = [Unavailable("away"), Unavailable("away"), CutReason.REVOKED]

    world.recheck.drop_key(OTHER, ended=False)

    assert await world.reasons() == [None, None, CutReason.REVOKED]
    assert world.asked == [OTHER] * 3


async def test_who_ends_by_itself_is_not_asked_about_any_more(world: World) -> None:
    world.answers = [Unavailable("away")]
    world.recheck.drop_key(OTHER, ended=False)
    await until(lambda: world.asked == [OTHER], within_s=5)
    world.tasks[2].cancel()
    await world.recheck.done()

    assert world.asked == [OTHER]
    await world.reasons()


async def test_who_ended_for_another_reason_is_not_counted(world: World) -> None:
    world.answers = [CutReason.REVOKED]
    exchange: Exchange = next(each for each in world.exchanges if each.subject.key_id == OTHER)
    exchange.cut(CutReason.CLIENT_GONE)

    world.recheck.drop_key(OTHER, ended=False)

    assert await world.reasons() == [None, None, CutReason.CLIENT_GONE]
    assert world.counted == []


async def test_nobody_is_asked_about_a_key_that_has_ended(world: World) -> None:
    world.recheck.drop_key(KEY, ended=True)

    assert await world.reasons() == [CutReason.REVOKED, CutReason.REVOKED, None]
    assert world.asked == []
    assert world.counted == [CutReason.REVOKED, CutReason.REVOKED]


async def test_nobody_is_asked_about_the_keys_of_a_tenant_that_has_ended(world: World) -> None:
    world.recheck.drop_tenant(TENANT, ended=True)

    assert await world.reasons() == [CutReason.REVOKED] * 3
