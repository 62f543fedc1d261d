"""What the page on security claims is tested by tests that exist."""

import re
from typing import Final

from tests.support.repository import text_of, tracked

PAGE: Final = text_of("docs/security.md")
NAMES: Final = {
    name
    for path in tracked()
    if path.parts[0] == "tests" and path.name.startswith("test_")
    for name in re.findall(r"def (test_\w+)\(", text_of(path))
}
ROWS: Final = re.findall(r"^\| ([T\d].*?) \|.*\| (.*?) \|$", PAGE, re.MULTILINE)


def _exists(claimed: str) -> bool:
    beginning = claimed.removesuffix("...")
    return claimed in NAMES if beginning == claimed else any(name.startswith(beginning) for name in NAMES)


def test_every_test_that_the_page_names_exists() -> None:
    assert [name for name in re.findall(r"`(test_\w+(?:\.\.\.)?)`", PAGE) if not _exists(name)] == []


def test_every_threat_and_requirement_has_a_test() -> None:
    assert len(ROWS) > 70
    assert [row for row, tests in ROWS if "`test_" not in tests] == []


def test_every_threat_that_a_test_is_named_after_is_on_the_page() -> None:
    tested = {int(match[1]) for name in NAMES if (match := re.match(r"test_t(\d\d)_", name))}

    assert tested <= {int(row[1:]) for row, _ in ROWS if row.startswith("T")}
