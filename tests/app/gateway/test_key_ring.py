"""Where keys are looked up, what may be remembered, and for how long."""

import asyncio

import pytest

from app.gateway.key_ring import AWAY_AFTER_S, MAX_UNKNOWN, OUTAGE_GRACE_S, UNKNOWN_TTL_S
from domain.errors import Unavailable
from tests.support.key_rings import DIGESTS, World
from tests.support.principals import principal
from tests.support.waiting import until


@pytest.fixture
async def world() -> World:
    world = World()
    await world.follower.poll()
    return world


async def test_memory_is_asked_first_then_redis_then_postgres(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()

    assert await world.find() is owner
    assert world.asked == ["redis", "postgres", "store"]
    assert await world.find() is owner
    assert world.asked == ["redis", "postgres", "store"]


async def test_what_another_process_stored_in_redis_spares_postgres(world: World) -> None:
    owner = principal()
    world.shared.entries[DIGESTS[0]] = (owner, 10)

    assert await world.find() is owner
    assert world.asked == ["redis"]
    assert world.ring.remembered(DIGESTS[0]) is owner


@pytest.mark.parametrize(
    ("seq", "asked"),
    [(9, ["redis", "postgres", "store"]), (10, ["redis"]), (11, ["redis", "postgres", "store"])],
)
async def test_an_entry_in_redis_of_another_number_than_the_known_one_is_ignored(
    world: World, seq: int, asked: list[str]
) -> None:
    """An older one may be revoked; one that is ahead may be left from before a restore."""
    world.shared.entries[DIGESTS[0]] = (principal(), seq)
    world.stored[DIGESTS] = principal()

    await world.find()

    assert world.asked == asked


async def test_what_postgres_says_is_shared_with_the_number_it_was_read_at(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()

    await world.find()

    assert world.shared.entries == {DIGESTS[0]: (owner, 10)}


async def test_nothing_is_remembered_before_it_was_found(world: World) -> None:
    assert world.ring.remembered(DIGESTS[0]) is None


async def test_many_who_ask_for_one_key_cost_one_look_up(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    answer = asyncio.Event()
    world.before_answer = [answer]

    waiting = [asyncio.create_task(world.find()) for _ in range(100)]
    await until(lambda: "postgres" in world.asked, within_s=5)
    answer.set()

    assert await asyncio.gather(*waiting) == [owner] * 100
    assert world.asked.count("postgres") == 1


async def test_one_who_stops_waiting_costs_the_others_nothing(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    answer = asyncio.Event()
    world.before_answer = [answer]
    leaves, stays = (asyncio.create_task(world.find()) for _ in range(2))
    await until(lambda: "postgres" in world.asked, within_s=5)

    leaves.cancel()
    answer.set()

    assert await stays is owner
    assert leaves.cancelled() or leaves.cancelling()


async def test_different_keys_are_looked_up_side_by_side(world: World) -> None:
    answers = [asyncio.Event(), asyncio.Event()]
    world.before_answer = list(answers)

    waiting = [asyncio.create_task(world.find((digest,))) for digest in (b"a", b"b")]
    await until(lambda: world.asked.count("postgres") == 2, within_s=5)
    for answer in answers:
        answer.set()

    assert await asyncio.gather(*waiting) == [None, None]


# -- unknown keys


async def test_an_unknown_key_is_not_asked_for_again_within_five_seconds(world: World) -> None:
    assert await world.find() is None
    world.clock.at += UNKNOWN_TTL_S - 0.01
    assert await world.find() is None

    assert world.asked == ["redis", "postgres"]


async def test_an_unknown_key_that_exists_now_works_after_five_seconds(world: World) -> None:
    await world.find()
    owner = world.stored[DIGESTS] = principal()
    world.clock.at += UNKNOWN_TTL_S

    assert await world.find() is owner


async def test_unknown_keys_are_never_shared(world: World) -> None:
    await world.find()

    assert world.shared.entries == {}


async def test_t04_guessing_neither_fills_memory_nor_pushes_real_keys_out(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    await world.find()

    for number in range(MAX_UNKNOWN + 100):
        await world.find((b"%d" % number,))

    world.asked.clear()
    assert await world.find() is owner
    assert await world.find((b"%d" % (MAX_UNKNOWN + 99),)) is None
    assert world.asked == []
    await world.find((b"0",))
    assert world.asked == ["redis", "postgres"]


# -- Postgres away


async def test_f16_cached_keys_work_for_a_minute_without_postgres(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    await world.find()
    world.clock.at += OUTAGE_GRACE_S

    assert world.ring.remembered(DIGESTS[0]) is owner
    assert await world.find() is owner


async def test_f17_without_both_stores_nobody_works(world: World) -> None:
    world.stored[DIGESTS] = principal()
    await world.find()
    world.redis_is_away = True
    assert world.ring.remembered(DIGESTS[0]) is not None
    world.clock.at += AWAY_AFTER_S + 0.01

    assert world.ring.remembered(DIGESTS[0]) is None
    with pytest.raises(Unavailable, match="stores_unreachable"):
        await world.find()


async def test_f16_after_a_minute_without_postgres_nobody_works(world: World) -> None:
    world.stored[DIGESTS] = principal()
    await world.find()
    world.clock.at += OUTAGE_GRACE_S + 0.01

    assert world.ring.remembered(DIGESTS[0]) is None
    with pytest.raises(Unavailable):
        await world.find()


async def test_f16_keys_work_again_once_postgres_confirms(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    await world.find()
    world.clock.at += 10 * OUTAGE_GRACE_S
    await world.follower.poll()

    assert world.ring.remembered(DIGESTS[0]) is owner


async def test_f16_a_key_known_to_redis_alone_works_while_postgres_is_away(world: World) -> None:
    owner = principal()
    world.shared.entries[DIGESTS[0]] = (owner, 10)
    world.fails = OSError("away")

    assert await world.find() is owner


async def test_f16_a_key_in_no_cache_is_our_trouble_and_asked_for_anew(world: World) -> None:
    owner = world.stored[DIGESTS] = principal()
    world.fails = OSError("away")
    with pytest.raises(Unavailable):
        await world.find()

    world.fails = None
    assert await world.find() is owner


async def test_before_postgres_was_ever_asked_nobody_works() -> None:
    with pytest.raises(Unavailable):
        await World().find()
