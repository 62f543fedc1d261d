from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from app.embedded.demo import backends_setting
from app.embedded.environment import gateway_environment, names_backends, neutral_environment
from app.embedded.state_dir import StateDirectory, locked
from app.settings import load_app_settings
from domain.keys import mint_pepper

STORES = {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/d", "REDIS_URL": "redis://:p@127.0.0.1:2/0"}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDirectory]:
    with locked(tmp_path / "state") as state:
        yield state


def given(state: StateDirectory, environ: Mapping[str, str], backends: str | None = None) -> dict[str, str]:
    return gateway_environment(
        environ,
        state=state,
        secrets=state.secrets(),
        stores=STORES,
        host="127.0.0.1",
        port=8000,
        backends=backends,
    )


def test_the_children_can_start_from_an_empty_environment(state: StateDirectory) -> None:
    settings = load_app_settings(given(state, {}))

    assert settings.journal_dir == state.path / "journal"
    assert settings.exit_with_parent


def test_the_operator_s_pepper_wins_over_the_generated_one(state: StateDirectory) -> None:
    pepper = mint_pepper("mine")

    assert given(state, {"GATEWAY_KEY_PEPPER": pepper})["GATEWAY_KEY_PEPPER"] == pepper


def test_a_pepper_in_a_file_is_left_there(state: StateDirectory) -> None:
    environment = given(state, {"GATEWAY_KEY_PEPPER_FILE": "/run/secrets/pepper"})

    assert "GATEWAY_KEY_PEPPER" not in environment
    assert environment["GATEWAY_KEY_PEPPER_FILE"] == "/run/secrets/pepper"


def test_no_setting_of_the_operator_s_leads_to_another_database(state: StateDirectory) -> None:
    environment = given(
        state,
        {
            "DATABASE_URL": "postgresql://else/where",
            "DATABASE_URL_FILE": "/run/secrets/database",
            "DATABASE_DIRECT_URL": "postgresql://else/where",
            "REDIS_URL_FILE": "/run/secrets/redis",
        },
    )

    assert STORES.items() <= environment.items()
    assert {"DATABASE_URL_FILE", "DATABASE_DIRECT_URL", "REDIS_URL_FILE"}.isdisjoint(environment)


def test_the_demo_s_backends_replace_the_operator_s(state: StateDirectory) -> None:
    setting = backends_setting([11, 22], token="secret-token")
    environment = given(state, {"OLLAMA_BACKENDS_FILE": "/run/secrets/backends"}, backends=setting)

    first, second = load_app_settings(environment).backends()

    assert (first.name, first.base_url, first.auth_token) == ("sim-a", "http://127.0.0.1:11", None)
    assert second.auth_token is not None


def test_only_the_demo_opens_the_documentation_and_the_operator_may_keep_it_closed(
    state: StateDirectory,
) -> None:
    setting = backends_setting([11, 22], token="secret-token")
    closed = given(state, {"GATEWAY_DOCS_PUBLIC": "false"}, backends=setting)

    assert load_app_settings(given(state, {}, backends=setting)).docs_public
    assert not load_app_settings(given(state, {})).docs_public
    assert not load_app_settings(closed).docs_public


def test_backends_count_as_named_when_any_way_of_naming_them_is_used() -> None:
    assert names_backends({"OLLAMA_BASE_URL": "http://10.0.0.1:11434"})
    assert names_backends({"OLLAMA_BACKENDS_FILE": "/run/secrets/backends"})
    assert not names_backends({"OLLAMA_BACKENDS": " "})


def test_a_simulated_server_is_told_nothing_of_the_gateway() -> None:
    environment = neutral_environment({"HOME": "/home/me", "GATEWAY_KEY_PEPPER": "p", "DATABASE_URL": "d"})

    assert {"HOME", "PYTHONPATH", "PYTHONUNBUFFERED"} == set(environment)
