"""What an operator may say of a backend, and what a backend's answers mean."""

import json

import pytest
from pydantic import SecretStr, ValidationError

from domain.backends import (
    MAX_MODELS,
    BackendSpec,
    BadAnswer,
    build_backend_headers,
    config_digest,
    effective_backends,
    is_forbidden_address,
    parse_loaded,
    parse_tags,
    parse_version,
)
from domain.model_table import LoadedModel

URL = "http://127.0.0.1:11434"


def spec(**changes: object) -> BackendSpec:
    return BackendSpec.model_validate({"name": "a", "base_url": URL, **changes})


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1:11434",
        "https://ollama.example.org",
        "http://[fd12::1]:11434",
        "http://gpu-1/prefix",
        "http://host.docker.internal:11434",
        "http://gpu_1.lan",
    ],
)
def test_plain_addresses_are_taken_as_they_are(url: str) -> None:
    assert spec(base_url=url).base_url == url


def test_a_trailing_slash_is_dropped() -> None:
    assert spec(base_url=URL + "/").base_url == URL


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a",
        "a:11434",
        "http://",
        "http://user@a",
        "http://user:password@a",
        "http://a?x=1",
        "http://a?",
        "http://a#x",
        "http://a/../b",
        "http://a b",
        "http://a\n.example",
        "http://a:0",
        "http://a:99999",
        "http://a:port",
        "http://\u0430.example",
        "http://169.254.169.254",
        "http://[fe80::1]",
        "http://[::ffff:169.254.169.254]",
        "http://[fd00:ec2::254]",
        "http://100.100.100.200",
        "http://metadata.google.internal",
        "http://metadata.google.internal.",
        "http://2852039166",
        "http://0xa9fea9fe",
        "http://169.16689662",
        "http://0.0.0.0:11434",
        "http://[::]",
        "http://224.0.0.1",
    ],
)
def test_addresses_that_are_not_a_backend_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        spec(base_url=url)


@pytest.mark.parametrize("address", ["169.254.0.1", "fe80::1%eth0", "::ffff:169.254.1.1", "0.0.0.0"])  # noqa: S104 - nothing binds it
def test_link_local_addresses_are_forbidden_in_every_spelling(address: str) -> None:
    assert is_forbidden_address(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.9", "8.8.8.8", "fd12::1"])
def test_ordinary_addresses_are_allowed(address: str) -> None:
    assert not is_forbidden_address(address)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "a\n"},
        {"name": "x" * 65},
        {"auth_header": "X Key"},
        {"auth_header": "Host"},
        {"auth_header": "content-length"},
        {"auth_scheme": "Bearer\r\nX-Evil:"},
        {"auth_token": "t\r\nX-Evil: 1"},
        {"auth_token": "t\n"},
        {"auth_token": ""},
        {"max_in_flight": 0},
        {"deadlines": {"connect_s": 0}},
        {"deadlines": {"connect": 1}},
        {"auth_tokn": "t"},
    ],
)
def test_a_wrong_description_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        spec(**changes)


def test_defaults_leave_the_gateway_in_charge() -> None:
    backend = spec()

    assert backend.auth_token is None
    assert not backend.allow_cloud
    assert backend.max_in_flight is None
    assert (backend.deadlines.connect_s, backend.deadlines.first_byte_s, backend.deadlines.idle_s) == (
        None,
        None,
        None,
    )


def test_a_listed_backend_wins_over_the_single_one() -> None:
    assert effective_backends((spec(),), base_url="http://b") == (spec(),)


def test_without_a_list_there_is_one_backend_named_default() -> None:
    alone = effective_backends((), base_url=URL, auth_token=SecretStr("t"))

    assert alone == (BackendSpec(name="default", base_url=URL, auth_token=SecretStr("t")),)


@pytest.mark.parametrize(
    ("header", "scheme", "expected"),
    [
        ("Authorization", None, {"Authorization": "Bearer t"}),
        ("authorization", None, {"authorization": "Bearer t"}),
        ("Authorization", "Token", {"Authorization": "Token t"}),
        ("X-API-Key", None, {"X-API-Key": "t"}),
        ("X-API-Key", "", {"X-API-Key": "t"}),
        ("X-API-Key", "Key", {"X-API-Key": "Key t"}),
    ],
)
def test_the_token_of_the_single_backend_travels_as_told(
    header: str, scheme: str | None, expected: dict[str, str]
) -> None:
    (backend,) = effective_backends(
        (), base_url=URL, auth_token=SecretStr("t"), auth_header=header, auth_scheme=scheme
    )

    assert build_backend_headers(backend) == expected


def test_an_empty_scheme_sends_the_bare_token() -> None:
    backend = spec(auth_token="t", auth_scheme="", auth_header="X-Key")

    assert build_backend_headers(backend) == {"X-Key": "t"}


def test_without_a_token_nothing_is_sent() -> None:
    assert build_backend_headers(spec()) == {}


def test_a_line_end_never_reaches_a_header_even_without_validation() -> None:
    smuggled = BackendSpec.model_construct(
        name="a",
        base_url=URL,
        auth_token=SecretStr("t\r\nX-Evil: 1"),
        auth_header="Authorization",
        auth_scheme="Bearer",
    )

    with pytest.raises(ValueError, match="printable"):
        build_backend_headers(smuggled)


def test_the_token_does_not_show() -> None:
    backend = spec(auth_token="hunter2")

    assert "hunter2" not in repr(backend) + str(backend) + backend.model_dump_json()


def test_the_digest_follows_name_and_address_and_knows_no_token() -> None:
    assert config_digest(spec()) == config_digest(spec(auth_token="t"))
    assert config_digest(spec()) != config_digest(spec(name="b"))
    assert config_digest(spec()) != config_digest(spec(base_url="http://127.0.0.1:11435"))
    assert config_digest(spec()) != config_digest(spec(allow_cloud=True))


@pytest.mark.parametrize(
    ("body", "version"),
    [
        (b'{"version": "0.33.0-rc2", "new": 1}', "0.33.0-rc2"),
        (b'{"version": 1}', None),
        (b'{"version": "<script>"}', None),
        (b"{}", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_version(body: bytes, version: str | None) -> None:
    assert parse_version(body) == version


def tags_body(*models: object) -> bytes:
    return json.dumps({"models": list(models)}).encode()


def names(body: bytes, *, allow_cloud: bool = False) -> list[str]:
    return [model.name for model in parse_tags(body, allow_cloud=allow_cloud)]


def test_a_model_keeps_what_lists_repeat() -> None:
    entry = {
        "name": "Library/Llama3.2",
        "digest": "a" * 64,
        "size": 2**40,
        "modified_at": "2026-08-21T10:00:00.123456789+02:00",
        "details": {"family": "llama", "families": ["llama"], "parent_model": None, "context_length": 8192},
        "capabilities": ["completion", "tools"],
        "unheard_of": {"x": []},
    }

    (model,) = parse_tags(tags_body(entry), allow_cloud=False)

    assert model.name == "llama3.2:latest"
    assert (model.digest, model.size) == ("a" * 64, 2**40)
    assert model.modified_at == entry["modified_at"]
    assert model.details == entry["details"]
    assert model.capabilities == ("completion", "tools")


def test_missing_fields_do_not_cost_the_model() -> None:
    (model,) = parse_tags(tags_body({"name": "a"}), allow_cloud=False)

    assert (model.digest, model.size, model.modified_at) == ("", 0, "0001-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "entry",
    [
        7,
        None,
        {"name": 7},
        {"name": ""},
        {"name": "a b"},
        {"name": "a", "digest": "not hex"},
        {"name": "a", "size": -1},
        {"name": "a", "size": "big"},
        {"name": "x" * 5000},
    ],
)
def test_one_odd_entry_costs_only_itself(entry: object) -> None:
    assert names(tags_body({"name": "before"}, entry, {"name": "after"})) == ["before:latest", "after:latest"]


@pytest.mark.parametrize(
    "details", [7, {"family": {"deep": 1}}, {"family": "x" * 300}, {str(i): 1 for i in range(99)}]
)
def test_odd_details_cost_only_themselves(details: object) -> None:
    (model,) = parse_tags(tags_body({"name": "a", "details": details, "capabilities": {}}), allow_cloud=False)

    assert model.details == {}
    assert model.capabilities == ()


def test_the_same_model_in_two_spellings_counts_once() -> None:
    assert names(tags_body({"name": "a"}, {"name": "A:latest"}, {"name": "library/a"})) == ["a:latest"]


def test_models_that_leave_the_machine_are_dropped() -> None:
    body = tags_body(
        {"name": "x:cloud"},
        {"name": "y:8b-cloud"},
        {"name": "stub", "remote_host": "https://o"},
        {"name": "s2", "remote_model": "m"},
        {"name": "my-cloud"},
    )

    assert names(body) == ["my-cloud:latest"]


def test_remote_stubs_stay_where_the_operator_allows_them() -> None:
    body = tags_body(
        {"name": "stub", "remote_host": "https://o"}, {"name": "x:cloud"}, {"name": "y:8b-CLOUD"}
    )

    assert names(body, allow_cloud=True) == ["stub:latest", "x:cloud", "y:8b-cloud"]


def test_the_number_of_models_is_bounded() -> None:
    assert len(names(tags_body(*({"name": f"m{i}"} for i in range(MAX_MODELS + 5))))) == MAX_MODELS


@pytest.mark.parametrize("body", [b'{"models": null}', b'{"models": []}'])
def test_no_models_is_an_answer(body: bytes) -> None:
    assert names(body) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Ollama is running",
        b"[]",
        b"{}",
        b'{"models": {}}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"models":' + b"[" * 100_000,
    ],
)
def test_what_is_no_list_of_models_is_a_bad_answer(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        parse_tags(body, allow_cloud=False)
    with pytest.raises(BadAnswer):
        parse_loaded(body)


def test_loaded_models_are_canonical_and_once() -> None:
    loaded = parse_loaded(tags_body({"name": "a"}, {"name": "A"}, {"name": 3}, {"name": "b:1"}))

    assert [model.name for model in loaded] == ["a:latest", "b:1"]


def test_a_loaded_model_tells_its_sizes_and_its_expiry() -> None:
    said = {"size": 7, "size_vram": 5, "context_length": 4096, "expires_at": "2026-01-01T00:00:00.5+01:00"}

    assert parse_loaded(tags_body({"name": "a", "digest": "x", **said})) == (
        LoadedModel("a:latest", 7, 5, 4096, "2026-01-01T00:00:00.5+01:00"),
    )


@pytest.mark.parametrize(
    "odd", [{"size": -1}, {"size_vram": 2**64}, {"expires_at": 7}, {"size": "7"}], ids=str
)
def test_an_odd_loaded_model_costs_nobody_the_others(odd: dict[str, object]) -> None:
    assert [model.name for model in parse_loaded(tags_body({"name": "a", **odd}, {"name": "b"}))] == [
        "b:latest"
    ]


def test_an_expiry_that_is_no_time_is_long_past() -> None:
    (loaded,) = parse_loaded(tags_body({"name": "a", "expires_at": "/etc/passwd"}))

    assert loaded.expires_at == "0001-01-01T00:00:00Z"
