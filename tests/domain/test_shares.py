"""Shares: together they are the whole, and nobody gets more than its part."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from domain.shares import Meter, Shares

NAMES = st.sets(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=20)


@given(names=NAMES, limit=st.integers(min_value=0, max_value=10**15))
def test_the_shares_of_all_are_the_whole(names: set[str], limit: int) -> None:
    shares = [Shares.of(name, names).share(limit) for name in names]

    assert sum(shares) == limit
    assert max(shares) - min(shares) <= 1


@given(names=NAMES, name=st.text("abc", min_size=1, max_size=4))
def test_a_process_counts_itself_whether_it_is_listed_or_not(names: set[str], name: str) -> None:
    assert Shares.of(name, names) == Shares.of(name, names | {name})


def test_a_process_alone_has_everything() -> None:
    assert Shares.of("a", ()).share(7) == 7


# -- meters


def test_a_meter_drains_its_share_in_a_minute() -> None:
    meter = Meter(60, used=60, now=0)

    assert [meter.wait_s(1, now) for now in (0, 0.5, 1)] == [1, 0.5, 0]
    assert meter.wait_s(61, 0) == inf


def test_a_meter_takes_back() -> None:
    meter = Meter(60, used=0, now=0)
    meter.add(60, 0)
    meter.give_back(59)

    assert meter.wait_s(59, 0) == 0
    assert meter.wait_s(60, 0) == 1


@given(
    share=st.integers(1, 100),
    asks=st.lists(st.tuples(st.floats(0, 20), st.integers(1, 50)), max_size=60),
)
def test_no_meter_lets_more_through_than_a_share_and_what_drained(
    share: int, asks: list[tuple[float, int]]
) -> None:
    meter, now, taken = Meter(share, used=0, now=0), 0.0, 0
    for pause, amount in asks:
        now += pause
        if not meter.wait_s(amount, now):
            meter.add(amount, now)
            taken += amount

    assert taken <= share + share * now / 60 + 1e-6
