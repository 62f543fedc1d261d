"""Help and completion: what every command says of itself, word for word, and what a shell makes of it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli.commands import run
from tests.support.help_texts import PLAIN, command_paths, help_text, snapshot
from tests.support.repository import ROOT, text_of, tracked

PATHS = tuple(command_paths())


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_is_what_was_agreed_on(path: tuple[str, ...]) -> None:
    """`python -m tests.support.help_texts` writes it anew."""
    text = help_text(path)

    assert text == snapshot().get(text.partition("\n")[0])


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_help_has_an_example_that_can_be_typed(path: tuple[str, ...]) -> None:
    text = " ".join(help_text(path).split())

    assert "Example: " in text
    assert f"neuronetz-gateway {' '.join(path)}".rstrip() in text.partition("Example: ")[2]


def test_every_command_is_run_by_some_test() -> None:
    tests = "".join(text_of(path) for path in tracked() if path.parts[0] == "tests" and path.suffix == ".py")
    groups = {path[:-1] for path in PATHS if path}
    commands = [path for path in PATHS if path not in groups]

    typed = {path: r'",\s*"'.join(path) for path in commands}
    assert [path for path, words in typed.items() if not re.search(f'"{words}"', tests)] == []


def test_the_snapshot_holds_no_command_that_is_gone() -> None:
    assert len(snapshot()) == len(PATHS)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "completion.bash"
    with file.open("w") as target:
        subprocess.run(
            [sys.executable, "-m", "app", "completion", "bash"], stdout=target, check=True, cwd=ROOT
        )
    return file


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (("doc",), {"doctor"}),
        (("keys", ""), {"create", "list", "revoke", "rotate", "set"}),
        (("keys", "re"), {"revoke"}),
        (("keys", "create", "laptop", "--ten"), {"--tenant"}),
        (("tenants", "list", "--u"), {"--url"}),
        (("usage", "--by", "mo"), {"model", "month"}),
    ],
)
def test_bash_completes_what_is_typed(script: Path, typed: tuple[str, ...], offered: set[str]) -> None:
    program = """
        source "$1"; shift
        COMP_WORDS=(neuronetz-gateway "$@"); COMP_CWORD=$#
        [[ $(complete -p neuronetz-gateway) =~ -F\\ ([^ ]+) ]] || exit 3
        "${BASH_REMATCH[1]}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    bash = shutil.which("bash")
    assert bash is not None

    done = subprocess.run(
        [bash, "--norc", "-c", program, "bash", str(script), *typed],
        capture_output=True,
        text=True,
        check=True,
    )

    assert set(done.stdout.split()) == offered
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script_that_names_every_command(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(("completion", shell)) == 0

    printed = capsys.readouterr().out
    assert all(path[-1] in printed for path in PATHS if path)
