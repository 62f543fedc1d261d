"""Everybody gets the same versions, and no file says from where (docs/decisions/0002)."""

import json
import os
import re
import subprocess
import tomllib
from importlib import metadata
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.repository import ROOT, text_of, tracked

PYPROJECT = tomllib.loads(text_of("pyproject.toml"))
DIRECT = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
LOCK = text_of("requirements.lock")

# In pieces, so that this file does not hold what it looks for.
_KNOWN_INDEXES = [
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "npmjs" + ".org",
    "npmjs" + ".com",
    "yarnpkg" + ".com",
    "crates" + ".io",
    "golang" + ".org",
    "ghcr" + ".io",
    "docker" + ".io",
    "quay" + ".io",
    "gcr" + ".io",
]
_INDEX_VARIABLES = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "npm_config_registry",
]


def _machine_indexes() -> list[str]:
    """Return the hosts of the indexes this machine is set up with: a mirror's name slips in most easily."""
    addresses = " ".join(os.environ.get(name, "") for name in _INDEX_VARIABLES).split()
    hosts = {urlsplit(address.partition("=")[2] or address).hostname for address in addresses}
    return sorted(host for host in hosts if host and host not in {"localhost", "127.0.0.1", "::1"})


def _locked() -> dict[str, tuple[str, int]]:
    """Return name -> (version, hashes) of what the lock installs in this environment."""
    found: dict[str, tuple[str, int]] = {}
    for entry in re.split(r"\n(?=\S)", LOCK):
        if entry.startswith("#"):
            continue
        requirement = Requirement(entry.partition(" \\\n")[0])
        if requirement.marker is None or requirement.marker.evaluate():
            version = str(requirement.specifier).removeprefix("==")
            found[canonicalize_name(requirement.name)] = (version, entry.count("--hash=sha256:"))
    return found


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in extras or {""})


def _closure() -> dict[str, list[Requirement]]:
    """Return every package that production needs here, with the requirements made of it."""
    demands: dict[str, list[Requirement]] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    pending = [requirement for requirement in DIRECT if _applies(requirement, frozenset())]
    while pending:
        requirement = pending.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        demands.setdefault(name, []).append(requirement)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        wanted = (Requirement(line) for line in metadata.requires(requirement.name) or [])
        pending.extend(found for found in wanted if _applies(found, extras))
    return demands


@pytest.mark.parametrize("host", [*_KNOWN_INDEXES, *_machine_indexes()])
def test_no_tracked_file_names_a_package_index(host: str) -> None:
    assert [str(path) for path in tracked() if host in text_of(path)] == []


def test_the_lock_file_that_would_name_an_index_is_ignored() -> None:
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "uv.lock"], cwd=ROOT, check=False)

    assert ignored.returncode == 0


def test_every_requirement_is_bounded_on_both_sides() -> None:
    groups = [line for group in PYPROJECT["dependency-groups"].values() for line in group]
    requirements = [*DIRECT, *map(Requirement, [*groups, *PYPROJECT["build-system"]["requires"]])]
    operators = {str(found): {part.operator for part in found.specifier} for found in requirements}

    assert [name for name, used in operators.items() if not used >= {">=", "<"}] == []


def test_resolution_stops_at_a_day() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT00:00:00Z", PYPROJECT["tool"]["uv"]["exclude-newer"])


def test_every_locked_package_is_pinned_with_hashes() -> None:
    locked = _locked()

    assert len(locked) > len(DIRECT)
    assert [name for name, (version, hashes) in locked.items() if not version or hashes == 0] == []


def test_the_lock_holds_what_production_needs_and_nothing_else() -> None:
    assert sorted(_closure()) == sorted(_locked())


def test_locked_versions_are_within_every_bound() -> None:
    locked = _locked()
    broken = [
        f"{demand} is not met by {locked[name][0]}"
        for name, demands in _closure().items()
        for demand in demands
        if not demand.specifier.contains(locked[name][0], prereleases=True)
    ]

    assert broken == []


def test_what_is_installed_is_what_is_locked() -> None:
    locked = {name: version for name, (version, _) in _locked().items()}

    assert locked == {name: metadata.version(name) for name in locked}


def test_everything_that_fetches_uv_fetches_the_same() -> None:
    patterns = {
        ".ci/run": r"UV_VERSION=(\S+)",
        ".github/workflows/ci.yml": r'UV_VERSION: "(\S+)"',
        "ops/image/uv.txt": r"uv==(\S+)",
    }
    versions = {path: re.findall(pattern, text_of(path)) for path, pattern in patterns.items()}

    assert len({tuple(found) for found in versions.values()}) == 1, versions
    assert Requirement(PYPROJECT["build-system"]["requires"][0]).specifier.contains(versions[".ci/run"][0])


@pytest.mark.parametrize("home", ["tests/js", "docs/sdk"])
def test_what_runs_on_node_is_locked_with_hashes_and_without_an_address(home: str) -> None:
    wanted = json.loads(text_of(f"{home}/package.json"))["dependencies"]
    entries = json.loads(text_of(f"{home}/package-lock.json"))["packages"]
    locked = {name.removeprefix("node_modules/"): entry for name, entry in entries.items() if name}

    assert wanted == {name: locked[name]["version"] for name in wanted}
    assert [name for name, entry in locked.items() if "integrity" not in entry or "resolved" in entry] == []
