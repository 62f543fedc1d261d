"""What has to be true of the repository as a whole."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support.repository import ROOT, text_of, tracked

MAX_MODULE_LINES = 400
PYPROJECT = tomllib.loads(text_of("pyproject.toml"))
WORKFLOWS = [path for path in tracked() if path.parent == Path(".github/workflows")]
PAGES = [path for path in tracked() if path.suffix == ".md"]

# In pieces, so that this file does not hold what it looks for.
_UNFINISHED = re.compile(r"\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX"]) + r")\b")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"`((?:app|bench|db|docs|domain|ops|tests|worker)(?:/[\w.-]+)+)`")
_ACTION = re.compile(r"uses:\s*(\S+)(.*)")


def _python_versions() -> list[str]:
    found = (re.search(r":: (3\.\d+)$", line) for line in PYPROJECT["project"]["classifiers"])
    return [match[1] for match in found if match]


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _broken_links(page: Path) -> list[str]:
    broken = []
    for link in _LINK.findall(_FENCE.sub("", text_of(page))):
        target, _, anchor = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        path = (ROOT / page.parent / target).resolve() if target else ROOT / page
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            broken.append(link)
    return broken


def test_no_module_outgrows_its_bound() -> None:
    modules = [path for path in tracked() if path.suffix == ".py" and path.parts[0] != "tests"]
    lengths = {str(path): len(text_of(path).splitlines()) for path in modules}

    assert {path: lines for path, lines in lengths.items() if lines > MAX_MODULE_LINES} == {}


def test_nothing_is_left_for_later_in_a_comment() -> None:
    # pyproject.toml names the rule that forbids it.
    files = [path for path in tracked() if path != Path("pyproject.toml")]

    assert [str(path) for path in files if _UNFINISHED.search(text_of(path))] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_between_pages_resolve(page: Path) -> None:
    assert _broken_links(page) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != Path("CHANGELOG.md")], ids=str)
def test_files_that_pages_name_exist(page: Path) -> None:
    named = set(_PATH.findall(text_of(page)))

    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("command", ["uv run neuronetz-gateway up --demo", "uv run pytest"])
def test_the_readme_shows_the_first_commands(command: str) -> None:
    assert command in text_of("README.md")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=str)
def test_foreign_actions_are_pinned_by_hash_with_their_version_beside(workflow: Path) -> None:
    actions = _ACTION.findall(text_of(workflow))

    assert actions
    assert [
        name
        for name, comment in actions
        if not re.fullmatch(r"[^@]+@[0-9a-f]{40}", name) or not re.search(r"# v\d+\.\d+\.\d+$", comment)
    ] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=str)
def test_workflows_may_only_read_the_sources(workflow: Path) -> None:
    parsed = yaml.safe_load(text_of(workflow))

    assert parsed["permissions"] == {}
    assert all(job["permissions"] == {"contents": "read"} for job in parsed["jobs"].values())


def test_the_declared_pythons_are_the_tested_ones() -> None:
    tested = yaml.safe_load(text_of(".github/workflows/ci.yml"))["jobs"]["tests"]["strategy"]["matrix"]
    local = re.search(r"FLOOR=(\S+)\nreadonly NEWER=\((.+)\)", text_of(".ci/run"))

    assert local is not None
    assert _python_versions() == tested["python-version"] == [local[1], *local[2].split()]


def test_tools_assume_the_oldest_supported_python() -> None:
    floor = _python_versions()[0]

    assert PYPROJECT["project"]["requires-python"].startswith(f">={floor},")
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + floor.replace(".", "")
    assert PYPROJECT["tool"]["mypy"]["python_version"] == floor
    assert Path(".python-version") not in tracked()
