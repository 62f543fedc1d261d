"""Asking a backend what a model is: once per digest, the next one if it fails, and within a time."""

import asyncio
from collections import deque
from collections.abc import Mapping

import msgspec
import pytest

from app.gateway.call import Call
from app.gateway.show import KEPT_S, MAX_BODY_BYTES, MAX_KEPT, Shows
from domain.errors import ModelForbidden, Sent, UpstreamExhausted, UpstreamFailed
from domain.model_facts import ModelFacts
from domain.model_names import CanonicalName
from domain.ports import Keeps, keeps_nothing
from domain.route import Candidate
from domain.values import Pieces
from tests.support.waiting import until

NAME = CanonicalName("llama3.2:latest", "llama3.2", needs_echo=False)
BODY = msgspec.json.encode({"details": {"family": "llama"}, "license": "x"})
CALL = Call(method="POST", raw_path=b"/api/show", headers=(), peer=None, started=0.0)


class Answer:
    """A scripted answer."""

    def __init__(
        self, status: int = 200, body: bytes = BODY, headers: Mapping[bytes, bytes] | None = None
    ) -> None:
        self.status = status
        self.headers = headers or {}
        self.closed = 0
        self._pieces = deque([body, b""])

    async def read(self) -> bytes:
        return self._pieces.popleft()

    def close(self) -> None:
        self.closed += 1


class Backend:
    """Answers what is scripted; the last answer again and again."""

    def __init__(self, *script: Answer | Exception) -> None:
        self.script = deque(script)
        self.asked: list[bytes | Pieces] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def post(
        self,
        path: bytes,
        body: bytes | Pieces,
        *,
        request_id: bytes,
        traceparent: bytes | None,
        keeps: Keeps = keeps_nothing,
    ) -> Answer:
        del request_id, traceparent, keeps
        assert path == b"/api/show"
        self.asked.append(body)
        await self.gate.wait()
        answer = self.script.popleft() if len(self.script) > 1 else self.script[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aclose(self) -> None:
        raise AssertionError("not ours to close")


class World:
    """Backends a and b of equal digest, a clock, and who was asked for a poll."""

    def __init__(self, *, attempt_s: float = 4.0, **backends: Backend) -> None:
        self.backends = backends
        self.now = 0.0
        self.polls = 0
        self.cooling: set[str] = set()
        self.shows = Shows(
            upstreams=backends,
            cooling=lambda: self.cooling,
            request_poll=self._poll,
            attempt_s=attempt_s,
            now=lambda: self.now,
        )

    def _poll(self) -> None:
        self.polls += 1

    async def ask(self, digest: str = "d1", **digests: str) -> ModelFacts:
        candidates = tuple(Candidate(name, digests.get(name, digest), silent=False) for name in self.backends)
        return await self.shows.facts(NAME, candidates, CALL)


FAILED = UpstreamFailed("connect_refused", Sent.NOTHING)


async def test_nothing_of_the_client_is_passed_on() -> None:
    world = World(a=Backend(Answer()))

    assert (await world.ask()).details == {"family": "llama"}
    assert world.backends["a"].asked == [b'{"model":"llama3.2:latest"}']


async def test_a_digest_is_asked_for_once_for_a_while() -> None:
    world = World(a=Backend(Answer()))
    for _ in range(3):
        await world.ask()
    assert len(world.backends["a"].asked) == 1

    world.backends["a"].script = deque([Answer()])
    world.now = KEPT_S
    await world.ask()
    assert len(world.backends["a"].asked) == 2


async def test_another_digest_is_another_model_and_an_unknown_one_is_never_kept() -> None:
    for digests in (("d1", "d2"), ("", "")):
        world = World(a=Backend(Answer(), Answer()))
        for digest in digests:
            await world.ask(digest)

        assert len(world.backends["a"].asked) == 2


async def test_what_is_kept_is_bounded() -> None:
    world = World(a=Backend(*(Answer() for _ in range(MAX_KEPT + 2))))
    for number in range(MAX_KEPT + 1):
        await world.ask(f"d{number}")
    await world.ask("d0")

    assert len(world.backends["a"].asked) == MAX_KEPT + 2


async def test_callers_at_the_same_time_share_one_question_and_may_leave() -> None:
    world = World(a=Backend(Answer()))
    world.backends["a"].gate.clear()
    callers = [asyncio.create_task(world.ask()) for _ in range(5)]
    await until(lambda: bool(world.backends["a"].asked), within_s=5)
    callers[0].cancel()
    world.backends["a"].gate.set()
    answers = await asyncio.gather(*callers, return_exceptions=True)

    assert isinstance(answers[0], asyncio.CancelledError)
    assert all(isinstance(answer, ModelFacts) for answer in answers[1:])
    assert len(world.backends["a"].asked) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        FAILED,
        Answer(404, b'{"error":"model not found"}'),
        Answer(401),
        Answer(500),
        Answer(302),
        Answer(headers={b"content-encoding": b"gzip"}),
        Answer(body=b"[]"),
        Answer(body=b" " * (MAX_BODY_BYTES + 1)),
    ],
    ids=["refused", "404", "401", "500", "302", "gzip", "no object", "too long"],
)
async def test_the_next_backend_answers_if_one_does_not(trouble: Answer | Exception) -> None:
    world = World(a=Backend(trouble), b=Backend(Answer()))

    assert (await world.ask()).details == {"family": "llama"}
    assert world.polls == 1
    if isinstance(trouble, Answer):
        assert trouble.closed == 1


async def test_one_that_cools_down_is_asked_last() -> None:
    world = World(a=Backend(Answer()), b=Backend(Answer()))
    world.cooling = {"a"}
    await world.ask()

    assert [len(backend.asked) for backend in world.backends.values()] == [0, 1]


async def test_a_model_that_nobody_has_any_more_is_the_generic_refusal() -> None:
    world = World(a=Backend(Answer(404)), b=Backend(Answer(404)))

    with pytest.raises(ModelForbidden):
        await world.ask()


async def test_a_failure_of_everybody_is_ours_and_is_not_kept() -> None:
    world = World(a=Backend(FAILED, Answer()))

    with pytest.raises(UpstreamExhausted):
        await world.ask()
    assert (await world.ask()).license == "x"


async def test_a_backend_that_says_nothing_is_given_up() -> None:
    world = World(attempt_s=0.05, a=Backend(Answer()), b=Backend(Answer()))
    world.backends["a"].gate.clear()

    assert (await world.ask()).license == "x"


async def test_what_another_digest_answered_is_kept_under_its_own() -> None:
    world = World(a=Backend(FAILED, FAILED, Answer()), b=Backend(Answer(), Answer()))
    await world.ask(a="d1", b="d2")
    await world.ask(a="d1", b="d2")

    assert len(world.backends["a"].asked) == 2
