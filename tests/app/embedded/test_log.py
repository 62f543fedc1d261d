import io
import subprocess
import sys
from typing import TextIO

from app.embedded.log import Log


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A stream whose reader has left."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


def follow(stream: TextIO, program: str) -> None:
    """Copy what a Python program prints to a log on `stream`, to its end."""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        Log(stream).follow("app", child.stdout).join(10)


def test_each_line_stands_under_its_process_in_one_column() -> None:
    stream = io.StringIO()
    log = Log(stream)

    log.line("app", "one")
    log.line("postgres", "two")

    assert stream.getvalue() == "app      | one\npostgres | two\n"


def test_colour_is_for_terminals() -> None:
    terminal, file = Terminal(), io.StringIO()
    Log(terminal).line("app", "x")
    Log(file).line("app", "x")

    assert "\x1b[" in terminal.getvalue()
    assert "\x1b[" not in file.getvalue()


def test_a_last_line_without_an_end_is_not_lost() -> None:
    stream = io.StringIO()
    follow(stream, "print('whole'); print('cut', end='')")

    assert stream.getvalue() == "app      | whole\napp      | cut\n"


def test_bytes_that_are_no_text_do_not_stop_the_copy() -> None:
    stream = io.StringIO()
    follow(stream, r"import sys; sys.stdout.buffer.write(b'\xff\n'); print('after', flush=True)")

    assert stream.getvalue().endswith("after\n")


def test_a_process_is_read_to_its_end_although_the_log_is_gone() -> None:
    follow(Gone(), "print('x' * 1_000_000)")  # more than a pipe holds: it would never end unread
