"""Shares: together they are the whole, and nobody gets more than its part."""

from hypothesis import given
from hypothesis import strategies as st

from domain.shares import Shares

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
