"""Log lines: one JSON object per line and bounded, whatever the fields hold."""

import json
import subprocess
import sys
from typing import Any

import pytest

from db.logs import MAX_FIELD_BYTES, MAX_TRACEBACK_CHARACTERS, bound_fields, encode, printable_fields
from tests.support.repository import ROOT

HOSTILE = [
    "two\nlines",
    'quoted " and \\ slashed',
    "\r\n\t\0",
    "\x1b[31mred\x1b[0m \x9b31m",
    "\x7f\x08\x0b\x0c\x1c\x1d\x1e",
    "nel \x85 ls \u2028 ps \u2029",
    "\ud800 lone \udfff",
    "\u202ertl",
    "é" * 1000,
    "x" * 1_000_000,
    '{"event":"forged"}\n{"event":"forged"}',
]


def line(**fields: Any) -> str:
    return encode(bound_fields(None, "info", {"event": "e", **fields}))


@pytest.mark.parametrize("text", HOSTILE)
def test_t34_any_text_is_one_line_of_printable_ascii(text: str) -> None:
    written = line(field=text, fields=[text], exception=text)

    assert written.isascii()
    assert written.isprintable()
    assert json.loads(written)["event"] == "e"


@pytest.mark.parametrize("text", HOSTILE)
def test_t34_a_field_has_at_most_256_bytes(text: str) -> None:
    found = json.loads(line(field=text))["field"]

    assert len(found.encode("utf-8", "replace")) <= MAX_FIELD_BYTES


@pytest.mark.parametrize(("text", "kept"), [("x" * 256, "x" * 256), ("x" * 257, "x" * 253 + "...")])
def test_what_is_cut_says_so(text: str, kept: str) -> None:
    assert json.loads(line(field=text))["field"] == kept


def test_a_cut_never_splits_a_character() -> None:
    assert json.loads(line(field="é" * 200))["field"] == "é" * 126 + "..."


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (0.5, 0.5),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (["a", "b"], ["a", "b"]),
        ({"a": 1}, {"a": 1}),
        pytest.param(10**5000, "<int>", id="huge"),
        ({1: float("nan")}, "<dict>"),
        (["x" * 300], '["' + "x" * 251 + "..."),
    ],
)
def test_values_stay_what_they_are_as_long_as_json_has_them(value: object, written: object) -> None:
    assert json.loads(line(field=value))["field"] == written


def test_a_circular_value_costs_no_line() -> None:
    circle: list[object] = []
    circle.append(circle)

    assert json.loads(line(field=circle))["field"] == "<list>"


def test_a_long_traceback_keeps_head_and_tail() -> None:
    found = json.loads(line(exception="head" + "x" * 1_000_000 + "tail"))["exception"]

    assert len(found) <= MAX_TRACEBACK_CHARACTERS + 3
    assert found.startswith("head")
    assert found.endswith("tail")


def test_t34_a_terminal_is_told_nothing_by_a_field() -> None:
    event = {"field": "\x1b[2J\x9b31m\nforged line", "exception": "Traceback:\n  \x1b[2Jhere"}

    shown = printable_fields(None, "info", event)

    assert shown["field"] == r"\x1b[2J\x9b31m\nforged line"
    assert shown["exception"] == "Traceback:\n  \\x1b[2Jhere"


PROGRAM = r"""
import logging, sys
import structlog
from db.logs import configure_logging

configure_logging(level="info", log_format=sys.argv[1], process="app")
log = structlog.get_logger()
log.debug("unheard")
log.info("plain", field="two\nlines \u2028")
try:
    secret_local = "canary-of-a-local"
    raise ValueError("first\nsecond")
except ValueError:
    log.exception("failed")
    logging.getLogger("library").exception("library failed %s", "x" * 1000)
logging.getLogger("library").info("unheard")
logging.getLogger("library").warning("told\x1b[2J %s", "you")
"""


def run(log_format: str) -> list[str]:
    ended = subprocess.run(
        (sys.executable, "-W", "error", "-c", PROGRAM, log_format), cwd=ROOT, capture_output=True, check=True
    )
    assert ended.stdout == b""
    return ended.stderr.decode().splitlines()


def test_a_process_writes_its_own_events_and_its_libraries_alike() -> None:
    lines = run("json")

    events = [json.loads(line) for line in lines]
    assert [(event["level"], event["event"][:14]) for event in events] == [
        ("info", "plain"),
        ("error", "failed"),
        ("error", "library failed"),
        ("warning", "told\x1b[2J you"),
    ]
    assert {event["process"] for event in events} == {"app"}
    assert all(event["timestamp"].endswith("Z") for event in events)
    assert all("ValueError: first\nsecond" in event["exception"] for event in events[1:3])
    assert events[3]["logger"] == "library"
    assert len(events[2]["event"]) == MAX_FIELD_BYTES


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_t35_tracebacks_show_no_values(log_format: str) -> None:
    written = "\n".join(run(log_format))

    assert "ValueError" in written
    assert "canary-of-a-local\n" not in written
    assert "secret_local = 'canary" not in written


def test_a_console_gets_no_escape_sequences_that_we_did_not_write() -> None:
    written = "\n".join(run("console"))

    assert "told" in written
    assert "\x1b[2J" not in written
    assert "\u2028" not in written
