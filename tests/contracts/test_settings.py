"""The environment and the code agree: every variable is documented, checked, and refused in one sentence."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from app.cli.settings import AdminKeySettings, MigrateSettings
from app.settings import AppSettings, Surface, load_app_settings
from db.settings import (
    EnvSettings,
    SettingsError,
    Source,
    documented_variables,
    is_secret,
    load_settings,
)
from tests.support.repository import text_of
from worker.settings import WorkerSettings, load_worker_settings

# The first section is for the compose files alone; tests/contracts/test_containers.py holds those two together.
SAMPLE = "# --- Ollama servers" + text_of(".env.sample").partition("\n# --- Ollama servers")[2]
KINDS = (AppSettings, WorkerSettings, MigrateSettings, AdminKeySettings)
SECRET = "hunter2-hunter2"
REQUIRED = {
    "DATABASE_URL": f"postgresql://gateway:{SECRET}@db.internal/gateway",
    "REDIS_URL": f"redis://:{SECRET}@redis.internal:6379/0",
    "GATEWAY_KEY_PEPPER": "a:" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "HOME": "/home/gateway",
}
VARIABLES = sorted({name for kind in KINDS for name, _ in documented_variables(kind)})
SECRETS = sorted({name for kind in KINDS for name, field in documented_variables(kind) if is_secret(field)})


BASE = {**REQUIRED, "GATEWAY_JOURNAL_DIR": "/var/lib/neuronetz-gateway/journal"}


def kinds_reading(name: str) -> tuple[type[EnvSettings], ...]:
    """Return the kinds of settings that read a variable."""
    return tuple(kind for kind in KINDS if name in dict(documented_variables(kind)))


def sample_lines() -> Iterator[tuple[str, str, str]]:
    """Yield name, value and the comment above of each variable in the sample."""
    above = ""
    for line in SAMPLE.splitlines():
        if match := re.fullmatch(r"#?([A-Z][A-Z_]+)=(.*)", line):
            yield match[1], match[2], above
        above = line


def refusal(environ: Mapping[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        load_app_settings({**REQUIRED, **environ})
    return str(caught.value)


def test_sample_documents_exactly_the_variables_the_code_reads() -> None:
    assert sorted(name for name, _, _ in sample_lines()) == VARIABLES


def test_every_variable_in_the_sample_has_a_sentence_above_it() -> None:
    for name, _, above in sample_lines():
        assert re.match(r"# \S.* .*\S", above), name


def test_sample_marks_exactly_the_secrets() -> None:
    text = SAMPLE
    for name in VARIABLES:
        paragraph = text[: re.search(rf"^#?{name}=", text, re.MULTILINE).start()].splitlines()  # type: ignore[union-attr]
        comments = []
        while paragraph and re.match(r"# [^-]", paragraph[-1]):
            comments.append(paragraph.pop())
        assert any(line.startswith("# (secret)") for line in comments) == (name in SECRETS), name


def test_a_default_shown_in_the_sample_is_the_default_in_the_code() -> None:
    shown = {name: value for name, value, _ in sample_lines() if value and name != "OLLAMA_BACKENDS"}

    for load in (load_app_settings, load_worker_settings):
        assert load(REQUIRED).model_dump() == load({**shown, **REQUIRED}).model_dump()


def test_the_two_backends_of_the_sample_are_usable() -> None:
    example = next(value for name, value, _ in sample_lines() if name == "OLLAMA_BACKENDS").strip("'")

    backends = load_app_settings({**REQUIRED, "OLLAMA_BACKENDS": example}).backends()

    assert [backend.name for backend in backends] == ["gpu-1", "gpu-2"]


@pytest.mark.parametrize("name", [name for name in VARIABLES if name not in REQUIRED])
@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_variable_is_unset(name: str, blank: str) -> None:
    assert load_app_settings(REQUIRED) == load_app_settings({**REQUIRED, name: blank})
    assert load_worker_settings(REQUIRED) == load_worker_settings({**REQUIRED, name: blank})


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "GATEWAY_KEY_PEPPER"])
def test_a_missing_variable_is_named(name: str) -> None:
    assert refusal({name: ""}) == f"{name} is not set; see .env.sample."


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_may_come_from_a_file(name: str, tmp_path: Path) -> None:
    value = {
        "OLLAMA_BACKENDS": '[{"name": "a", "base_url": "http://a:1"}]',
        "DATABASE_DIRECT_URL": REQUIRED["DATABASE_URL"],
        "GATEWAY_APP_DATABASE_URL": REQUIRED["DATABASE_URL"],
        "GATEWAY_ADMIN_KEY_DIGEST": f"nnga_0123abcd p1 {'0f' * 32}",
    }.get(name, REQUIRED.get(name, SECRET))
    file = tmp_path / "secret"
    file.write_text(value + "\n")

    for kind in kinds_reading(name):
        from_file = load_settings(kind, {**BASE, name: "", f"{name}_FILE": str(file)})

        from_variable = load_settings(kind, {**BASE, name: value})
        assert from_file.model_dump() == from_variable.model_dump()
        assert (from_file.source_of(name), from_variable.source_of(name)) == (Source.FILE, Source.ENVIRONMENT)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_given_twice_is_refused(name: str) -> None:
    for kind in kinds_reading(name):
        with pytest.raises(SettingsError) as caught:
            load_settings(kind, {**BASE, name: SECRET, f"{name}_FILE": "/run/secrets/x"})

        assert str(caught.value) == f"{name} and {name}_FILE are both set; keep one of them."


def test_an_unreadable_secret_file_is_named_by_its_variable_only() -> None:
    assert refusal({"GATEWAY_METRICS_TOKEN_FILE": SECRET}) == (
        "GATEWAY_METRICS_TOKEN_FILE must name a readable text file."
    )


def test_an_empty_secret_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")

    assert refusal({"GATEWAY_METRICS_TOKEN_FILE": str(tmp_path / "empty")}) == (
        "GATEWAY_METRICS_TOKEN_FILE names an empty file."
    )


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("GATEWAY_PORT", "eighty", "GATEWAY_PORT must be a whole number."),
        ("GATEWAY_PORT", "70000", "GATEWAY_PORT must be at most 65535."),
        ("GATEWAY_WORKERS", "0", "GATEWAY_WORKERS must be at least 1."),
        ("GATEWAY_IDLE_TIMEOUT_SECONDS", "-1", "GATEWAY_IDLE_TIMEOUT_SECONDS must be greater than 0."),
        ("GATEWAY_EXIT_WITH_PARENT", "perhaps", "GATEWAY_EXIT_WITH_PARENT must be true or false."),
        ("GATEWAY_LOG_FORMAT", "xml", "GATEWAY_LOG_FORMAT must be one of 'json' or 'console'."),
        ("GATEWAY_JOURNAL_DIR", "journal", "GATEWAY_JOURNAL_DIR must be an absolute path."),
        ("OLLAMA_BASE_URL", "ftp://a", "OLLAMA_BASE_URL must start with http:// or https://."),
        (
            "REDIS_URL",
            "redis+sentinel://:secret@a:26379,b:26379",
            "REDIS_URL must be an address like redis+sentinel://:password@host:26379,host:26379/service/0.",
        ),
        (
            "OLLAMA_BACKENDS",
            '[{"name": "a", "base_url": "http://a"}, {"name": "b"}]',
            "OLLAMA_BACKENDS[1].base_url is missing.",
        ),
        (
            "OLLAMA_BACKENDS",
            '[{"name": "a", "base_url": "http://a", "auth_tokn": "x"}]',
            "OLLAMA_BACKENDS[0].auth_tokn is not a known field.",
        ),
        (
            "OLLAMA_BACKENDS",
            '[{"name": "a", "base_url": "http://a"}, {"name": "a", "base_url": "http://b"}]',
            "OLLAMA_BACKENDS must give every backend a name of its own, 'a' is used twice.",
        ),
        (
            "GATEWAY_TRUSTED_PROXIES",
            "*",
            "GATEWAY_TRUSTED_PROXIES must not trust everybody: with * any client could forge its address.",
        ),
        (
            "GATEWAY_FIRST_BYTE_TIMEOUT_SECONDS",
            "1",
            "GATEWAY_FIRST_BYTE_TIMEOUT_SECONDS must not be shorter than GATEWAY_CONNECT_TIMEOUT_SECONDS.",
        ),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_its_variable(name: str, value: str, sentence: str) -> None:
    assert refusal({name: value}) == sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", f"mysql://gateway:{SECRET}@db/gateway"),
        ("REDIS_URL", f"http://:{SECRET}@redis:port"),
        ("GATEWAY_KEY_PEPPER", f"{SECRET}"),
        ("OLLAMA_AUTH_TOKEN", f"{SECRET}\r\nX-Evil: 1"),
        ("OLLAMA_BASE_URL", f"http://user:{SECRET}@host"),
        ("OLLAMA_BACKENDS", f'[{{"name": "a", "auth_token": "{SECRET}"'),
        ("OLLAMA_BACKENDS", f'[{{"name": "a", "base_url": "http://a", "auth_token": ["{SECRET}"]}}]'),
        ("OLLAMA_BACKENDS", f'[{{"name": "a", "base_url": "http://a", "{SECRET}": 1}}]'),
    ],
)
def test_a_refusal_never_repeats_a_secret(name: str, value: str) -> None:
    sentence = refusal({name: value})

    assert name in sentence
    assert SECRET not in sentence


def test_settings_never_show_a_secret() -> None:
    backends = f'[{{"name": "a", "base_url": "http://a", "auth_token": "{SECRET}"}}]'
    settings = load_app_settings({**REQUIRED, "OLLAMA_BACKENDS": backends, "GATEWAY_METRICS_TOKEN": SECRET})

    assert SECRET not in repr(settings) + str(settings) + repr(settings.backends())


def test_the_environment_of_the_process_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "1234")

    assert load_app_settings(REQUIRED).port == 8000


def test_comma_lists_are_split_and_kept_in_order() -> None:
    settings = load_app_settings(
        {
            **REQUIRED,
            "GATEWAY_SURFACES": "ops, tenant",
            "GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8, edge,::1",
            "GATEWAY_EXTRA_REQUEST_FIELDS": "user,metadata",
        }
    )

    assert settings.surfaces == (Surface.OPS, Surface.TENANT)
    assert settings.trusted_proxies == ("10.0.0.0/8", "edge", "::1")
    assert settings.extra_request_fields == ("user", "metadata")


def test_the_journal_lives_in_the_state_directory_by_default() -> None:
    assert load_app_settings({**REQUIRED, "XDG_STATE_HOME": "/var/state"}).journal_dir == Path(
        "/var/state/neuronetz-gateway/journal"
    )
    assert load_app_settings({**REQUIRED, "XDG_STATE_HOME": "relative"}).journal_dir == Path(
        "/home/gateway/.local/state/neuronetz-gateway/journal"
    )


def test_the_direct_address_falls_back_to_the_ordinary_one() -> None:
    assert load_worker_settings(REQUIRED).direct_url().get_secret_value() == REQUIRED["DATABASE_URL"]
