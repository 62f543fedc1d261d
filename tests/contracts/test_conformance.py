"""The conformance list of the wire protocol has forty cases, and each has a test that carries its number."""

import re

from tests.support.repository import ROOT, text_of

CASES = range(1, 41)


def test_every_conformance_case_has_a_test_of_its_number() -> None:
    journeys = sorted((ROOT / "tests/journeys").glob("test_*.py"))
    named = re.findall(r"def test_case_(\d\d)_", "".join(map(text_of, journeys)))

    assert sorted(set(map(int, named))) == list(CASES)
