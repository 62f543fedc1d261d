"""Each check of the settings: silent about what is well, and one finding for what is weak."""

import base64
import secrets
from collections.abc import Iterable

import pytest

from app.doctor import settings as checks
from app.doctor.findings import Finding, FindingKind, Level
from app.settings import AppSettings, load_app_settings
from domain.keys import mint_pepper


def loaded(**variables: str) -> AppSettings:
    required = {
        "DATABASE_URL": "postgresql://gateway:x@127.0.0.1/gateway",
        "REDIS_URL": "redis://:x@127.0.0.1/0",
        "GATEWAY_KEY_PEPPER": mint_pepper("p1"),
    }
    return load_app_settings(required | variables)


def told(found: Iterable[Finding]) -> list[tuple[FindingKind, Level]]:
    return [(each.kind, each.level) for each in found]


def test_a_pepper_somebody_typed_is_an_error_and_a_random_one_is_not() -> None:
    typed = base64.b64encode(b"0123456789" * 4).decode()

    (found,) = checks.of_pepper(f"{mint_pepper('p2')},p1:{typed}")

    assert (found.kind, found.level) == (FindingKind.PEPPER_WEAK, Level.ERROR)
    assert "p1" in found.what
    assert typed not in found.what


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://gateway:825af5ab65d9f056ebc9ed2c@db/x", []),
        ("postgresql://gateway:Postgres@db/x", [(FindingKind.STORE_GUESSABLE, Level.ERROR)]),
        ("postgresql://acme:acme@db/x", [(FindingKind.STORE_GUESSABLE, Level.ERROR)]),
        ("postgresql://gateway:change%2Dme@db/x", [(FindingKind.STORE_GUESSABLE, Level.ERROR)]),
        ("redis://:s3cr3t@db/0", [(FindingKind.STORE_GUESSABLE, Level.WARNING)]),
        ("redis://db/0", [(FindingKind.STORE_GUESSABLE, Level.WARNING)]),
        ("redis://127.0.0.1/0", []),
        ("unix:///run/valkey.sock?db=0", []),
        ("postgresql:///gateway?host=/run/postgresql", []),
    ],
)
def test_passwords_that_are_guessed_first(url: str, expected: list[tuple[FindingKind, Level]]) -> None:
    assert told(checks.of_store_password("X_URL", url, store="The store")) == expected


@pytest.mark.parametrize(
    ("url", "level"),
    [
        ("redis://:x@localhost/0", None),
        ("redis://:x@127.0.0.1/0", None),
        ("rediss://:x@db.example.org/0", None),
        ("rediss+sentinel://:x@db.example.org:26379,other.example.org/service/0", None),
        ("postgresql://u:x@db.example.org/x?sslmode=verify-full", None),
        ("postgresql://u:x@db.example.org/x?sslmode=prefer", Level.WARNING),
        ("postgresql://u:x@db/x", Level.NOTE),
        ("postgresql://u:x@10.0.0.7/x", Level.NOTE),
        ("redis://:x@8.8.8.8/0", Level.ERROR),
    ],
)
def test_a_store_in_the_clear_is_as_bad_as_the_way_is_long(url: str, level: Level | None) -> None:
    found = told(checks.of_store_encryption("X_URL", url, store="The store"))

    assert found == ([] if level is None else [(FindingKind.UNENCRYPTED, level)])


def test_backends_in_the_clear_are_told_with_their_token() -> None:
    settings = loaded(
        OLLAMA_BACKENDS="""[
            {"name": "here", "base_url": "http://127.0.0.1:11434"},
            {"name": "near", "base_url": "http://10.0.0.5:11434"},
            {"name": "sealed", "base_url": "https://8.8.8.8"},
            {"name": "open", "base_url": "http://8.8.8.8", "auth_token": "canary"}]"""
    )

    near, far = checks.of_backend_encryption(settings.backends())

    assert (near.where, near.level, far.where, far.level) == ("near", Level.NOTE, "open", Level.ERROR)
    assert "and the token" in far.what
    assert "canary" not in far.what


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, []),
        ({"GATEWAY_PATH_KEYS": "true"}, [FindingKind.PATH_KEYS_ON]),
        ({"GATEWAY_CORS_ORIGINS": "https://chat.example.org,http://localhost:3000"}, []),
        ({"GATEWAY_CORS_ORIGINS": "http://chat.example.org"}, [FindingKind.ORIGIN_UNENCRYPTED]),
        ({"GATEWAY_HOST": "10.0.0.1"}, [FindingKind.ADMIN_EXPOSED]),
        ({"GATEWAY_HOST": "10.0.0.1", "GATEWAY_SURFACES": "tenant,ops"}, []),
    ],
)
def test_what_the_interface_leaves_open(variables: dict[str, str], expected: list[FindingKind]) -> None:
    assert [each.kind for each in checks.of_surface(loaded(**variables), behind_proxy=False)] == expected


def test_operators_behind_the_tenants_proxy_are_warned_of_also_on_this_host_alone() -> None:
    (both,) = checks.of_surface(loaded(), behind_proxy=True)
    apart = checks.of_surface(loaded(GATEWAY_SURFACES="tenant"), behind_proxy=True)

    assert (both.kind, both.level) == (FindingKind.ADMIN_EXPOSED, Level.WARNING)
    assert list(apart) == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, [FindingKind.METRICS_CLOSED]),
        ({"GATEWAY_SURFACES": "tenant"}, []),
        ({"GATEWAY_METRICS_TOKEN": "short"}, [FindingKind.METRICS_GUESSABLE]),
        ({"GATEWAY_METRICS_TOKEN": secrets.token_hex(16)}, []),
    ],
)
def test_metrics_closed_or_nearly_open(variables: dict[str, str], expected: list[FindingKind]) -> None:
    assert [each.kind for each in checks.of_metrics(loaded(**variables))] == expected


def test_networks_that_hold_clients_are_no_proxies() -> None:
    found = checks.of_proxy_networks(("0.0.0.0/0", "10.0.0.0/8", "::/0", "fd00::/16", "::1", "edge"))

    assert [each.what.split()[0] for each in found] == ["0.0.0.0/0", "::/0"]


async def test_proxies_without_an_address_are_told() -> None:
    async def resolve(name: str) -> list[str]:
        if name == "edge":
            return ["192.0.2.1"]
        raise OSError

    proxies = ("10.0.0.0/8", "edge", "gone")
    (named,) = await checks.of_proxy_names(proxies, named=True, resolve=resolve)
    (default,) = await checks.of_proxy_names(proxies, named=False, resolve=resolve)

    assert (named.level, default.level) == (Level.WARNING, Level.NOTE)
    assert named.what.startswith("gone ")
