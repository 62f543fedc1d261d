"""Whatever processes say in which order: who has a place is who a single list of arrivals would have given it to."""

from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from db.redis.multiplex import MultiplexedRedis
from tests.support.counts import count
from tests.support.places import Speaker

BACKENDS: Final = ("x", "y")
CHOICES: Final = (("x",), ("y",), ("x", "y"), ("y", "x"))
NAMES: Final = "abc"

Ticket = tuple[str, int]
"""A process and the number of a ticket of its own."""


class OneList:
    """The same without processes: every free place goes to the first arrival that can use it."""

    def __init__(self, caps: dict[str, int]) -> None:
        self._caps = caps
        self._line: dict[Ticket, tuple[str, ...]] = {}
        self.places: dict[Ticket, str] = {}

    def ask(self, ticket: Ticket, backends: tuple[str, ...], *, stays: bool) -> None:
        self._line[ticket] = backends
        self._serve()
        if not stays:
            self._line.pop(ticket, None)

    def leave(self, ticket: Ticket) -> None:
        self._line.pop(ticket, None)
        self.places.pop(ticket, None)
        self._serve()

    def _serve(self) -> None:
        for ticket, backends in [*self._line.items()]:
            for backend in backends:
                if list(self.places.values()).count(backend) < self._caps[backend]:
                    self.places[ticket] = backend
                    del self._line[ticket]
                    break


STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from(NAMES), st.sampled_from(CHOICES), st.booleans()),
        st.tuples(st.just("leave"), st.integers(0, 1000)),
    ),
    min_size=1,
    max_size=30,
)


@settings(
    max_examples=count(60, 2000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(caps=st.tuples(st.integers(1, 3), st.integers(1, 3)), steps=STEPS)
async def test_three_processes_and_one_list_agree(
    redis_url: str, caps: tuple[int, int], steps: list[tuple[str, ...]]
) -> None:
    redis = MultiplexedRedis(SecretStr(redis_url), timeout_s=5)
    try:
        await redis.call("FLUSHDB")
        await follow(redis, dict(zip(BACKENDS, caps, strict=True)), steps)
    finally:
        await redis.aclose()


async def follow(redis: MultiplexedRedis, caps: dict[str, int], steps: list[tuple[str, ...]]) -> None:
    """Do the same in Redis and with one list."""
    speakers = {name: Speaker(redis, name, caps=caps) for name in NAMES}
    one_list = OneList(caps)
    places: dict[Ticket, str] = {}
    tickets: list[Ticket] = []
    await everybody_speaks(speakers, places)  # Redis hears of the model for the first time
    for step in steps:
        if step[0] == "ask":
            _, name, backends, stays = step
            ticket = name, speakers[name].want(*backends, stays=bool(stays))
            one_list.ask(ticket, tuple(backends), stays=bool(stays))
            tickets.append(ticket)
        elif tickets:
            ticket = tickets[int(step[1]) % len(tickets)]
            speaker = speakers[ticket[0]]
            speaker.tickets.pop(ticket[1], None)
            if (backend := places.pop(ticket, None)) is not None:
                speaker.held[backend] -= 1
            one_list.leave(ticket)
        else:
            continue
        await speak(speakers[ticket[0]], places)
        await everybody_speaks(speakers, places)

        assert places == one_list.places


async def everybody_speaks(speakers: dict[str, Speaker], places: dict[Ticket, str]) -> None:
    for speaker in speakers.values():
        await speak(speaker, places)


async def speak(speaker: Speaker, places: dict[Ticket, str]) -> None:
    for given_place in await speaker.say():
        places[speaker.name, given_place.number] = given_place.backend
