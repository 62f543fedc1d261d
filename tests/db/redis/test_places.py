"""Places and the line on a real server: what one process is told, and what all together never get."""

import asyncio
from typing import Final

import pytest
from pydantic import SecretStr

from db.redis.connection import connect_patient, own_channel
from db.redis.multiplex import MultiplexedRedis
from db.redis.places import CHANNEL, PlaceNews, Verdict, places_key
from tests.support.places import MODEL, Speaker, let_time_pass

PLACE, WAIT, PASS, FULL = Verdict.PLACE, Verdict.WAIT, Verdict.PASS, Verdict.FULL
OFFER_S: Final = 0.1
LEASE_S: Final = 2.0
HELD_S: Final = 6.0
SOON_S: Final = 5.0


@pytest.fixture
async def a(redis: MultiplexedRedis) -> Speaker:
    """Give a process that knows a backend x of one place and a backend y of two."""
    return Speaker(redis, "a", caps={"x": 1, "y": 2})


@pytest.fixture
async def b(redis: MultiplexedRedis) -> Speaker:
    return Speaker(redis, "b", caps={"x": 1, "y": 2})


@pytest.fixture
async def c(redis: MultiplexedRedis) -> Speaker:
    return Speaker(redis, "c", caps={"x": 1, "y": 2})


async def all_ask(*speakers: Speaker) -> None:
    """Let them ask for the one place of x: the first takes it, the others stand in line."""
    for speaker in speakers:
        await speaker.ask("x")


async def offered_to_b(a: Speaker, b: Speaker, c: Speaker) -> None:
    """Let a give the place back for which b and c stand in line."""
    await all_ask(a, b, c)
    await a.give_back("x")


# -- places


async def test_there_are_as_many_places_as_the_cap_says_for_all_together(a: Speaker, b: Speaker) -> None:
    verdicts = [await speaker.ask("y") for speaker in (a, b, a, b)]

    assert verdicts == [PLACE, PLACE, WAIT, WAIT]


async def test_a_full_candidate_is_passed_over_while_another_has_room(a: Speaker, b: Speaker) -> None:
    for speaker in (a, b, a):
        await speaker.ask("x", "y")

    assert (a.held, b.held) == ({"x": 1, "y": 1}, {"y": 1})


async def test_a_place_given_back_can_be_taken_at_once(a: Speaker, b: Speaker) -> None:
    await a.ask("x")
    await a.give_back("x")

    assert await b.ask("x") is PLACE


async def test_who_does_not_stay_is_told_at_once(a: Speaker, b: Speaker) -> None:
    await a.ask("x")

    assert await b.ask("x", stays=False) is PASS
    await a.give_back("x")
    assert await a.ask("x") is PLACE


async def test_a_word_without_tickets_changes_nothing_for_the_others(a: Speaker, b: Speaker) -> None:
    await all_ask(a, b)
    await b.say()

    assert await a.say() == []
    assert list(b.tickets) == [1]


async def test_models_do_not_share_places(redis: MultiplexedRedis, a: Speaker, b: Speaker) -> None:
    await a.ask("x")
    await redis.call("RENAME", places_key(MODEL), places_key("other:latest"))

    assert await b.ask("x") is PLACE


@pytest.mark.parametrize("name", ["m:1", "ns/m:latest", "host:5000/ns/m:q4_0", "host.a-b/n_s/m.x:latest"])
def test_all_of_a_models_name_is_the_hash_tag(name: str) -> None:
    assert places_key(name).partition("{")[2].partition("}")[0] == f"m:{name}"


# -- the line


async def test_a_freed_place_goes_to_the_first_in_line(a: Speaker, b: Speaker, c: Speaker) -> None:
    await offered_to_b(a, b, c)

    assert await c.say() == []
    assert len(await b.say()) == 1
    assert await c.say() == []


async def test_nobody_overtakes_while_an_offer_is_open(a: Speaker, b: Speaker) -> None:
    await all_ask(a, b)
    await a.give_back("x")

    assert await a.ask("x") is WAIT
    assert len(await b.say()) == 1


async def test_who_comes_later_takes_what_nobody_in_line_can_use(a: Speaker, b: Speaker) -> None:
    await all_ask(a, b)

    assert await a.ask("x", "y") is PLACE
    assert a.held == {"x": 1, "y": 1}


async def test_a_place_goes_to_the_first_that_can_use_it(a: Speaker, b: Speaker, c: Speaker) -> None:
    await a.ask("x")
    await a.ask("y")
    await a.ask("y")
    await b.ask("x")
    await c.ask("y")
    await a.give_back("y")

    assert await b.say() == []
    assert len(await c.say()) == 1


async def test_places_of_one_word_go_to_its_tickets_in_order(a: Speaker) -> None:
    first, second, third = a.want("y"), a.want("y"), a.want("y")
    given = await a.say()

    assert [answer.number for answer in given] == [first, second]
    assert list(a.tickets) == [third]


async def test_who_asks_again_keeps_its_order_of_arrival(a: Speaker, b: Speaker) -> None:
    await a.ask("x")
    arrival = a.answers[1].arrival
    await b.ask("x", "y")
    await b.ask("y")
    await b.ask("y")
    await a.give_back("x")  # which goes to nobody: b's ticket waits for y
    again = a.want("y", arrival=arrival)
    await a.say()
    await b.give_back("y")

    assert [answer.number for answer in await a.say()] == [again]


async def test_a_full_line_takes_nobody_new(a: Speaker, b: Speaker) -> None:
    await a.ask("x")
    verdicts = [await speaker.ask("x", most_waiting=2) for speaker in (a, b, b, a)]

    assert verdicts == [WAIT, WAIT, FULL, FULL]


async def test_a_full_line_takes_back_who_has_arrived_before(a: Speaker, b: Speaker) -> None:
    await a.ask("x")
    arrival = a.answers[1].arrival
    await a.give_back("x")
    await b.ask("x")
    await b.ask("x", most_waiting=1)
    again = a.want("x", arrival=arrival)
    await a.say(most_waiting=1)
    await b.say(most_waiting=1)

    assert (a.answers[again].verdict, b.answers[2].verdict) == (WAIT, WAIT)


async def test_without_any_waiting_a_full_backend_refuses_at_once(a: Speaker, b: Speaker) -> None:
    await a.ask("x", most_waiting=0)

    assert await b.ask("x", most_waiting=0) is FULL


async def test_who_leaves_frees_its_ticket(a: Speaker, b: Speaker, c: Speaker) -> None:
    await all_ask(a, b, c)
    b.tickets.clear()
    await b.say()
    await a.give_back("x")

    assert len(await c.say()) == 1


async def test_who_leaves_frees_the_place_it_was_offered(a: Speaker, b: Speaker, c: Speaker) -> None:
    await offered_to_b(a, b, c)
    b.tickets.clear()
    await b.say()

    assert len(await c.say()) == 1


async def test_a_place_that_nobody_knows_of_any_more_is_free_with_the_next_word(
    a: Speaker, b: Speaker
) -> None:
    await a.ask("x")
    a.held.clear()  # the answer never arrived, or its request had left
    await a.say()

    assert await b.ask("x") is PLACE


# -- offers


async def test_an_offer_that_is_not_taken_passes_on(
    redis: MultiplexedRedis, a: Speaker, b: Speaker, c: Speaker
) -> None:
    await offered_to_b(a, b, c)
    await let_time_pass(redis, OFFER_S)

    assert len(await c.say()) == 1


async def test_nobody_is_offered_two_places(a: Speaker, b: Speaker, c: Speaker) -> None:
    await a.ask("y")
    await a.ask("y")
    await b.ask("y")
    await c.ask("y")
    await a.give_back("y")
    await a.give_back("y")

    assert [len(await speaker.say()) for speaker in (c, b)] == [1, 1]


async def test_an_offer_is_kept_for_a_while(
    redis: MultiplexedRedis, a: Speaker, b: Speaker, c: Speaker
) -> None:
    await offered_to_b(a, b, c)
    await let_time_pass(redis, OFFER_S / 2)

    assert await c.say() == []


async def test_who_missed_an_offer_is_still_first_in_line(
    redis: MultiplexedRedis, a: Speaker, b: Speaker, c: Speaker
) -> None:
    await offered_to_b(a, b, c)
    await let_time_pass(redis, OFFER_S)
    await c.say()
    await b.say()
    await c.ask("x")
    await c.give_back("x")

    assert await c.say() == []
    assert len(await b.say()) == 1


async def test_who_missed_an_offer_is_offered_nothing_before_it_speaks(
    redis: MultiplexedRedis, a: Speaker, b: Speaker, c: Speaker
) -> None:
    await all_ask(a, b)
    await a.give_back("x")
    await let_time_pass(redis, OFFER_S)

    assert [await c.ask("x"), len(await b.say())] == [PLACE, 0]


async def test_an_offer_is_told_to_its_process_alone(redis_url: str, redis: MultiplexedRedis) -> None:
    async with connect_patient(SecretStr(redis_url)) as patient:
        channel = own_channel(patient, CHANNEL)
        a, b, c = (Speaker(redis, name, caps={"x": 1}, channel=channel) for name in "abc")
        async with (
            PlaceNews(patient, process_id="b").heard() as heard_by_b,
            PlaceNews(patient, process_id="c").heard() as heard_by_c,
        ):
            for heard in (heard_by_b, heard_by_c):
                assert [await anext(heard), await anext(heard)] == [None, None]
            for speaker in (a, b, c):
                await speaker.ask("x")
            for heard in (heard_by_b, heard_by_c):
                assert await anext(heard) == MODEL  # Redis did not know the model: everybody shall speak
            await a.give_back("x")
            async with asyncio.timeout(SOON_S):
                assert await anext(heard_by_b) == MODEL
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(OFFER_S):
                    await anext(heard_by_c)


# -- the dead and the silent


async def test_the_tickets_of_a_silent_process_leave_the_line(
    redis: MultiplexedRedis, a: Speaker, b: Speaker, c: Speaker
) -> None:
    await all_ask(a, b, c)
    await let_time_pass(redis, LEASE_S, of="b")
    await a.give_back("x")

    assert len(await c.say()) == 1


async def test_the_places_of_a_silent_process_come_back(
    redis: MultiplexedRedis, a: Speaker, b: Speaker
) -> None:
    await all_ask(a, b)
    await let_time_pass(redis, HELD_S - 1, of="a")
    assert await b.say() == []
    await let_time_pass(redis, 1, of="a")

    assert len(await b.say()) == 1


async def test_when_nobody_could_speak_everybody_is_asked_again_first(
    redis: MultiplexedRedis, a: Speaker, b: Speaker
) -> None:
    await all_ask(a, b)
    await let_time_pass(redis, 60)
    assert await b.say(recall_s=0.05) == []
    await a.say()
    await asyncio.sleep(0.1)

    assert await b.say() == []


async def test_who_died_while_nobody_could_speak_is_not_waited_for_long(
    redis: MultiplexedRedis, a: Speaker, b: Speaker
) -> None:
    await a.ask("x")
    await let_time_pass(redis, 60)

    assert await b.ask("x") is WAIT
    assert len(await b.say()) == 1


async def test_a_redis_that_forgot_gives_nothing_before_all_could_say_what_they_hold(
    redis: MultiplexedRedis, a: Speaker, b: Speaker, c: Speaker
) -> None:
    await all_ask(a, b)
    await redis.call("FLUSHDB")
    c.want("x")
    assert await c.say(recall_s=1) == []
    assert await b.say() == []
    await a.say()
    await let_time_pass(redis, 1)
    for speaker in (a, b, c):
        assert await speaker.say() == []
    await a.give_back("x")

    assert await c.say() == []
    assert len(await b.say()) == 1


async def test_words_that_arrive_late_change_nothing(redis: MultiplexedRedis, a: Speaker, b: Speaker) -> None:
    await a.ask("x")
    await a.say()
    late = Speaker(redis, "a", caps=a.caps)
    await late.say()

    assert await b.ask("x") is WAIT


async def test_processes_that_disagree_on_the_cap_each_keep_their_own(redis: MultiplexedRedis) -> None:
    small, large = Speaker(redis, "s", caps={"x": 1}), Speaker(redis, "l", caps={"x": 2})
    verdicts = [await speaker.ask("x") for speaker in (small, small, large, large)]

    assert verdicts == [PLACE, WAIT, PLACE, WAIT]
