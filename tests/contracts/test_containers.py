"""What the image and the compose file promise, as far as it can be read without a container engine."""

import json
import re
from typing import Any

import pytest
import yaml

from tests.support.repository import text_of

CONTAINERFILE = text_of("Containerfile")
COMPOSE: dict[str, Any] = yaml.safe_load(text_of("compose.yml"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ["gateway", "worker", "migrate"]


def test_the_image_runs_as_an_ordinary_user() -> None:
    users = re.findall(r"^USER (\S+)$", CONTAINERFILE, re.MULTILINE)

    assert users == ["10001:10001"]


def test_the_image_is_the_command_line_itself() -> None:
    entry_point = re.search(r"^ENTRYPOINT (.+)$", CONTAINERFILE, re.MULTILINE)

    assert entry_point is not None
    assert json.loads(entry_point[1]) == ["neuronetz-gateway"]


def test_the_image_installs_by_hash_alone() -> None:
    assert "uv pip sync --python /app/.venv --require-hashes requirements.lock" in CONTAINERFILE
    assert "uv pip install --python /app/.venv --no-deps ." in CONTAINERFILE


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_service_publishes_a_port(name: str) -> None:
    assert "ports" not in SERVICES[name]
    assert "network_mode" not in SERVICES[name]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_hardened(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


@pytest.mark.parametrize("name", OURS)
def test_our_processes_run_as_an_ordinary_user(name: str) -> None:
    assert SERVICES[name]["user"] == "10001:10001"
    assert "cap_add" not in SERVICES[name]


def test_the_stores_are_on_the_network_without_a_way_out_and_on_no_other() -> None:
    assert COMPOSE["networks"]["data"] == {"internal": True}
    assert [SERVICES[name]["networks"] for name in ("postgres", "valkey")] == [["data"], ["data"]]


def test_only_the_gateway_is_seen_by_the_reverse_proxy() -> None:
    assert [name for name, service in SERVICES.items() if "proxy" in service["networks"]] == ["gateway"]


def test_secrets_come_from_files() -> None:
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"URL|PASSWORD|PEPPER|TOKEN", name):
                assert not value or (name.endswith("_FILE") and value.startswith("/run/secrets/"))


def test_the_public_process_serves_tenants_alone() -> None:
    assert SERVICES["gateway"]["environment"]["GATEWAY_SURFACES"] == "tenant"


def test_our_processes_start_on_a_migrated_database() -> None:
    assert [SERVICES[name]["depends_on"]["migrate"]["condition"] for name in ("gateway", "worker")] == [
        "service_completed_successfully"
    ] * 2
