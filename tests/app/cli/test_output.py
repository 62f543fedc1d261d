"""Tables for terminals and for pipes."""

import sys

import pytest

from app.cli.output import Table, plain_lines, show_table

TABLE = Table(
    ("name", "count"), [("a[b]", "1"), ("long name", "1,000")], numbers=frozenset({1}), total=("all", "1,001")
)


def test_plain_columns_are_aligned_and_nothing_trails() -> None:
    assert plain_lines(TABLE) == [
        "name       count",
        "a[b]           1",
        "long name  1,000",
        "all        1,001",
    ]


@pytest.mark.parametrize(("columns", "bordered"), [(80, True), (18, False)])
def test_a_terminal_gets_a_border_if_the_table_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int, *, bordered: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))

    show_table(TABLE)

    out = capsys.readouterr().out
    assert ("───" in out) is bordered
    for cell in ("a[b]", "long name", "1,000", "1,001"):
        assert cell in out


def test_what_a_terminal_would_obey_is_escaped() -> None:
    evil = Table(("name",), [("a\x1b[2Jb\nc\u202e",)], total=("\r",))

    assert plain_lines(evil)[1:] == [r"a\x1b[2Jb\nc\u202e", r"\r"]


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(TABLE)

    assert capsys.readouterr().out.splitlines() == plain_lines(TABLE)
