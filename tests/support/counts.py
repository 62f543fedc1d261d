"""How often a repeating test repeats, a little in the suite, in full under `just soak`; and how often that was."""

import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from random import SystemRandom
from typing import Any, Final

import pytest

PARSERS: Final = "generated inputs to parsers"
_PROPERTY: Final = "cases"
FEW: Final = 20
"""Where every change of the code is tested, one after the other, a test is repeated at most so often."""


def count(suite: int, soak: int) -> int:
    """Return `suite`; `soak` where the environment says NNG_SOAK=1, few where it says NNG_MUTATION=1."""
    if os.environ.get("NNG_MUTATION") == "1":
        return min(suite, FEW)
    return soak if os.environ.get("NNG_SOAK") == "1" else suite


def chosen_seed() -> int:
    """Return the seed that the environment names (NNG_SEED), or another one each time. Whoever draws by it says it."""
    return int(os.environ.get("NNG_SEED") or SystemRandom().randrange(10**9))


def tell_cases(item: pytest.Item, what: str, cases: int) -> None:
    """Have the end of the run say how many cases of something there were, those of all tests together."""
    item.user_properties.append((_PROPERTY, (what, cases)))


def cases_in(reports: Iterable[object]) -> Counter[str]:
    """Return what the tests behind these reports told, whichever process they ran in."""
    told = Counter[str]()
    for report in reports:
        if isinstance(report, pytest.TestReport) and report.when == "call":
            for name, value in report.user_properties:
                if name == _PROPERTY and isinstance(value, tuple | list):
                    told[value[0]] += value[1]
    return told


@contextmanager
def generated_inputs_counted(item: pytest.Function) -> Iterator[None]:
    """Count what hypothesis gives to a test of a parser, and tell it at the end of the run."""
    test = getattr(item.obj, "hypothesis", None)
    if test is None or item.get_closest_marker("parser") is None:
        yield
        return
    inner, cases = test.inner_test, 0

    @functools.wraps(inner)
    def counted(*values: Any, **named: Any) -> None:
        nonlocal cases
        cases += 1
        inner(*values, **named)

    test.inner_test = counted
    try:
        yield
    finally:
        test.inner_test = inner
        tell_cases(item, PARSERS, cases)
