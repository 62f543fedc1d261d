"""What tests need of `tests/conftest.py` where mutants are tested: no stores, so nothing that has to do with them.

A pytest plugin of `[tool.mutmut]`. Each mutant has a process of its own, in which every import counts.
"""

import json
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from tests.support.guard import keep_inside

keep_inside()
# The same cases for every mutant. A case that fails says enough: nobody reads a smaller one.
settings.register_profile(
    "mutation", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the quickest tests first: the first that fails is the last that runs."""
    known = Path("mutmut-stats.json")
    if known.is_file():
        durations = json.loads(known.read_text(encoding="utf-8"))["duration_by_test"]
        items.sort(key=lambda item: durations.get(item.nodeid, 0.0))


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """One loop for the whole session, of the kind the product runs on."""
    return "asyncio", {"use_uvloop": True}
