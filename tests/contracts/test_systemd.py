"""The shipped systemd units: accepted by systemd, closed to what the programs do not need, patient enough to drain."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from app.cli import commands
from app.farewell import farewell_s
from app.server import KILL_MARGIN_S
from app.settings import AppSettings
from tests.support.repository import ROOT

UNITS: Final = sorted((ROOT / "ops/systemd").glob("*.service"))
MOST_EXPOSURE: Final = 1.5
_INSTALLED: Final = "/opt/neuronetz-gateway/bin/"

of_each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)


def systemd_analyze(*words: str) -> str:
    """Return what it says; skips the test where there is none, fails it if it objects."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed (on Debian: apt-get install systemd)")
    done = subprocess.run((program, "--no-pager", *words), capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def settings_of(unit: Path) -> configparser.SectionProxy:
    """Return the section of the service; of what stands there several times, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign] # how configparser is told to keep the case
    parser.read_string(unit.read_text())
    return parser["Service"]


def uncommented(unit: Path) -> str:
    """Return what systemd reads of a unit."""
    return "".join(line for line in unit.read_text().splitlines(keepends=True) if not line.startswith("#"))


def test_there_is_a_unit_for_each_program() -> None:
    assert [unit.stem for unit in UNITS] == [
        "neuronetz-gateway-admin",
        "neuronetz-gateway",
        "neuronetz-migrate",
        "neuronetz-worker",
    ]


def test_systemd_accepts_them_all(tmp_path: Path) -> None:
    copies = []
    for unit in UNITS:
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text().replace(_INSTALLED, f"{Path(sys.executable).parent}/"))
        copies.append(str(copy))

    assert systemd_analyze("verify", "--man=no", "--recursive-errors=no", *copies) == ""


@of_each_unit
def test_s9_what_takes_a_process_over_can_do_little(unit: Path) -> None:
    said = systemd_analyze("security", "--offline=true", str(unit))

    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found is not None, said
    assert float(found[1]) <= MOST_EXPOSURE, said


@of_each_unit
def test_it_starts_a_command_that_exists(unit: Path) -> None:
    program, command = settings_of(unit)["ExecStart"].split()[-2:]

    assert program == f"{_INSTALLED}neuronetz-gateway"
    assert command in commands.app


def surfaces_of(name: str) -> set[str]:
    """Return what the app of a unit serves, as long as the operator's settings say nothing else."""
    (said,) = re.findall(r"\bGATEWAY_SURFACES=(\S+)", uncommented(ROOT / f"ops/systemd/{name}.service"))
    return set(said.split(","))


def test_what_a_public_proxy_leads_to_serves_no_operator() -> None:
    assert surfaces_of("neuronetz-gateway") == {"tenant"}


def test_operators_are_served_on_this_host_alone_whatever_the_shared_settings_say() -> None:
    command = settings_of(ROOT / "ops/systemd/neuronetz-gateway-admin.service")["ExecStart"]

    assert surfaces_of("neuronetz-gateway-admin") == {"admin", "docs", "ops"}
    assert {"GATEWAY_HOST=127.0.0.1", "GATEWAY_PORT=8002", "GATEWAY_SURFACES=admin,docs,ops"} <= {
        *command.split()
    }


def test_the_worker_keeps_revocations_apart_from_the_database() -> None:
    text = uncommented(ROOT / "ops/systemd/neuronetz-worker.service")

    assert "Environment=GATEWAY_REVOCATION_MIRROR=%S/neuronetz-worker/revocations" in text
    assert "StateDirectory=neuronetz-worker" in text


def test_the_app_may_take_as_long_to_stop_as_it_can_need() -> None:
    service = settings_of(ROOT / "ops/systemd/neuronetz-gateway.service")
    drain_s = AppSettings.model_fields["drain_s"].default

    assert int(service["TimeoutStopSec"]) > farewell_s(drain_s) + drain_s + KILL_MARGIN_S
    assert service["KillMode"] == "mixed"


@of_each_unit
def test_no_secret_stands_in_an_environment(unit: Path) -> None:
    credentials = set(re.findall(r"^LoadCredential=(\w+):", unit.read_text(), re.MULTILINE))
    named = set(re.findall(r"\b[A-Z_]+_FILE=%d/(\w+)", unit.read_text()))

    assert credentials == named
