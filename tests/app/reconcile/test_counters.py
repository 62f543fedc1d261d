"""The arithmetic of counters that move while they are compared."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.reconcile.counters import CLOCKS_DIFFER, Charge, Taken, Window, gaps, taken, tracked
from app.reconcile.findings import Finding, FindingKind, Gap, found_again
from db.redis.limit_counters import TENANT, HeldTokens
from domain.values import KeyId, Limits, RequestId

BEGAN = datetime(2026, 11, 25, tzinfo=UTC)
READ = BEGAN + timedelta(hours=12)
START = int(BEGAN.timestamp())
WINDOW = Window.of(START, READ)
KEY = KeyId(UUID(int=1))
RESERVED = 100
SECOND = timedelta(seconds=1)


class Request:
    """A request: reserved, admitted by a clock that is off, and perhaps settled, in seconds from the reading."""

    def __init__(
        self, number: int, reserved: float, admitted_after: float, lasts: float, off: float, *, has_row: bool
    ) -> None:
        self.has_row = has_row
        self.id = RequestId(UUID(int=number))
        self.tokens = number
        self.reserved = reserved
        self.settled = reserved + admitted_after + lasts
        self.started_at = READ + timedelta(seconds=reserved + admitted_after + off)

    @property
    def held(self) -> HeldTokens:
        return HeldTokens(self.id, "alive", KEY, START, RESERVED, START, START, swept=False)

    @property
    def charge(self) -> Charge:
        return Charge(self.id, KEY, self.tokens, self.started_at)


seconds = st.floats(min_value=0, max_value=5)
requests = st.lists(
    st.tuples(
        st.floats(min_value=-10, max_value=10),
        seconds,
        seconds,
        st.floats(min_value=-CLOCKS_DIFFER.total_seconds(), max_value=CLOCKS_DIFFER.total_seconds()),
        st.booleans(),
    ),
    max_size=20,
)


@given(requests, st.floats(min_value=0, max_value=5))
def test_traffic_alone_never_differs(
    timings: list[tuple[float, float, float, float, bool]], read_for: float
) -> None:
    """Records are read after the counters, some of them long after."""
    made = [
        Request(number, reserved, admitted_after, lasts, off, has_row=has_row)
        for number, (reserved, admitted_after, lasts, off, has_row) in enumerate(timings, start=1)
    ]
    held = [each for each in made if each.reserved <= 0 < each.settled]
    counted = RESERVED * len(held) + sum(each.tokens for each in made if each.settled <= 0)
    recorded = [each for each in made if each.settled <= read_for]
    in_sums = [each for each in recorded if each.has_row and WINDOW.surely(each.started_at)]
    summed = [each.charge for each in in_sums]
    expected = taken(
        WINDOW,
        start=START,
        sums={KEY: sum(charge.tokens for charge in summed)} if summed else {},
        summed=summed,
        single=[each.charge for each in recorded if each not in in_sums],
        held=[each.held for each in held],
    )

    assert gaps({TENANT: counted, KEY: counted}, expected) == {}


def test_a_surplus_is_known_to_the_token_when_nothing_moves() -> None:
    expected = taken(WINDOW, start=START, sums={KEY: 50}, summed=[], single=[], held=[])

    assert gaps({TENANT: 57, KEY: 50}, expected) == {TENANT: Gap(7, 7)}


def test_a_key_that_only_redis_knows_of_differs() -> None:
    assert gaps({KEY: 3}, {TENANT: Taken()}) == {KEY: Gap(3, 3)}


def test_a_swept_reservation_counts_nothing_until_it_is_settled() -> None:
    request = Request(9, -60, 0, 1, 0, has_row=True)
    held = HeldTokens(request.id, "dead", KEY, START, RESERVED, START, START, swept=True)
    expected = taken(WINDOW, start=START, sums={KEY: 9}, summed=[request.charge], single=[], held=[held])

    assert gaps({}, expected) == {}


def test_reservations_of_another_day_do_not_count() -> None:
    held = HeldTokens(
        RequestId(UUID(int=1)), "alive", KEY, 0, RESERVED, START - 86_400, START - 99, swept=False
    )
    expected = taken(WINDOW, start=START, sums={}, summed=[], single=[], held=[held])

    assert gaps({}, expected) == {}


@pytest.mark.parametrize("beside", [-SECOND, SECOND, 0 * SECOND])
def test_a_request_at_the_turn_of_a_day_belongs_to_either(beside: timedelta) -> None:
    charge = Charge(RequestId(UUID(int=1)), KEY, 9, BEGAN + beside)
    expected = taken(WINDOW, start=START, sums={}, summed=[], single=[charge], held=[])

    assert [gaps({TENANT: counted, KEY: counted}, expected) for counted in (0, 9)] == [{}, {}]
    assert gaps({TENANT: 10, KEY: 9}, expected) == {TENANT: Gap(1, 10)}


def test_just_after_the_turn_of_a_day_nothing_is_sure() -> None:
    window = Window.of(START, BEGAN + SECOND)

    assert window.edges() == ((BEGAN - 2 * SECOND, BEGAN + 3 * SECOND),)


@pytest.mark.parametrize(
    ("tenant", "key", "expected"),
    [
        (Limits(), Limits(), (False, False)),
        (Limits(concurrency=1), Limits(), (True, True)),
        (Limits(), Limits(tokens_per_day=1), (False, True)),
    ],
)
def test_only_what_is_wholly_counted_can_be_compared(
    tenant: Limits, key: Limits, expected: tuple[bool, bool]
) -> None:
    assert (tracked(TENANT, tenant, {KEY: key}), tracked(KEY, tenant, {KEY: key})) == expected


def found(least: int, most: int, where: str = "tenant a, day") -> Finding:
    return Finding(FindingKind.TOKENS_DIFFER, where, "", {"counted": 1}, gap=Gap(least, most))


@pytest.mark.parametrize(
    ("earlier", "later", "both"),
    [
        ((5, 5), (5, 5), (5, 5)),
        ((3, 9), (5, 20), (5, 9)),
        ((-9, -2), (-4, -4), (-4, -4)),
        ((3, 4), (5, 6), None),
        ((3, 4), (-4, -3), None),
    ],
)
def test_two_looks_agree_on_what_fits_both(
    earlier: tuple[int, int], later: tuple[int, int], both: tuple[int, int] | None
) -> None:
    agreed = found_again(found(*earlier), found(*later))

    assert (None if agreed is None or agreed.gap is None else (agreed.gap.least, agreed.gap.most)) == both
    assert agreed is None or agreed.figures["least"] == both[0]  # type: ignore[index]


def test_looks_at_different_things_do_not_agree() -> None:
    assert found_again(found(5, 5), found(5, 5, "tenant b, day")) is None


@pytest.mark.parametrize(
    ("gap", "told"),
    [
        (Gap(5, 5), "5 too many"),
        (Gap(1200, 1500), "1,200 to 1,500 too many"),
        (Gap(-9, -2), "2 to 9 too few"),
    ],
)
def test_a_gap_is_told_in_words(gap: Gap, told: str) -> None:
    assert str(gap) == told
