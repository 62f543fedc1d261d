"""The catalogue as clients see it: merged, newest first, filtered, honest about versions."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from app.gateway.lists import NO_VERSION, Listing
from domain.model_names import CanonicalName
from domain.model_table import BackendCondition, BackendState, LoadedModel
from tests.support.tables import backend, hosted, index

OLD, NEW = "2025-01-01T00:00:00.123456789+02:00", "2026-01-01T00:00:00Z"
STALE, SILENT = BackendCondition.STALE, BackendCondition.SILENT


def everything(name: CanonicalName) -> bool:
    del name
    return True


def native(*backends: BackendState) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.json.decode(Listing(index(*backends)).native(everything))["models"]
    return found


def only(*backends: BackendState) -> dict[str, Any]:
    (entry,) = native(*backends)
    return entry


def test_what_only_drained_backends_host_is_not_listed() -> None:
    shared, own = hosted("shared:1"), hosted("own:1")

    listed = native(backend("a", shared, own, drained=True), backend("b", shared))

    assert [model["name"] for model in listed] == ["shared:1"]


def test_one_model_is_listed_as_its_backend_tells_it() -> None:
    model = hosted(
        "qwen3:8b",
        digest="ab",
        modified_at=OLD,
        details={"family": "qwen3", "context_length": 4096},
        capabilities=("completion", "tools"),
    )

    assert only(backend("a", model)) == {
        "name": "qwen3:8b",
        "model": "qwen3:8b",
        "modified_at": OLD,
        "size": 7,
        "digest": "ab",
        "details": {"family": "qwen3", "context_length": 4096},
        "capabilities": ["completion", "tools"],
    }


def test_the_same_model_on_several_backends_is_one_entry() -> None:
    assert only(backend("a", hosted()), backend("b", hosted()), backend("c", hosted()))["digest"] == "aa"


def test_of_different_digests_the_newest_models_metadata_are_shown() -> None:
    older = hosted(digest="11", modified_at=OLD, details={"quantization_level": "Q4"})
    newer = hosted(digest="22", modified_at=NEW, details={"quantization_level": "Q8"})

    for order in ((older, newer), (newer, older)):
        entry = only(*(backend(name, model) for name, model in zip("ab", order, strict=True)))
        assert (entry["digest"], entry["modified_at"]) == ("22", NEW)
        assert entry["details"] == {"quantization_level": "Q8"}


def test_capabilities_are_those_that_all_have() -> None:
    one = hosted(capabilities=("completion", "tools", "vision"))
    other = hosted(modified_at=OLD, capabilities=("vision", "completion", "thinking"))

    assert only(backend("a", one), backend("b", other))["capabilities"] == ["completion", "vision"]


def test_a_backend_that_reports_no_capabilities_takes_none_away() -> None:
    silent = hosted(modified_at=NEW)
    telling = hosted(modified_at=OLD, capabilities=("completion",))

    assert only(backend("a", silent), backend("b", telling))["capabilities"] == ["completion"]
    assert "capabilities" not in only(backend("a", silent))


def test_the_context_is_the_smallest() -> None:
    models = [hosted(details={"context_length": length}) for length in (8192, 4096, 32768)]

    entry = only(*(backend(name, model) for name, model in zip("abc", models, strict=True)))

    assert entry["details"] == {"context_length": 4096}


def test_newest_models_come_first_and_equals_in_the_operators_order() -> None:
    a = backend("a", hosted("old:1", modified_at=OLD), hosted("b:1"), hosted("a:1"))
    b = backend("b", hosted("new:1", modified_at="2026-06-01T00:00:00-07:00"))

    assert [entry["name"] for entry in native(a, b)] == ["new:1", "b:1", "a:1", "old:1"]


@pytest.mark.parametrize("odd", ["", "yesterday", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00Z", "9" * 100])
def test_a_time_that_is_none_is_the_oldest(odd: str) -> None:
    entries = native(backend("a", hosted("odd:1", modified_at=odd), hosted("dated:1", modified_at=OLD)))

    assert [entry["name"] for entry in entries] == ["dated:1", "odd:1"]
    assert entries[1]["modified_at"] == odd


def test_t20_empty_lists_are_lists() -> None:
    empty = Listing(index())

    assert empty.native(everything) == b'{"models":[]}'
    assert empty.openai(everything) == b'{"object":"list","data":[]}'


def test_lists_show_what_the_key_may_use_alone() -> None:
    listing = Listing(index(backend("a", hosted("mine:1"), hosted("yours:1"), hosted("mine:2"))))

    def mine(name: CanonicalName) -> bool:
        return name.display.startswith("mine")

    tags = msgspec.json.decode(listing.native(mine))["models"]
    models = msgspec.json.decode(listing.openai(mine))["data"]
    assert [entry["name"] for entry in tags] == ["mine:1", "mine:2"]
    assert [entry["id"] for entry in models] == ["mine:1", "mine:2"]
    assert listing.native(lambda _: False) == b'{"models":[]}'


def test_openais_entries_name_the_owner_and_the_day() -> None:
    listing = Listing(
        index(backend("a", hosted("ns/m:1", modified_at="1970-01-02T00:00:00Z"), hosted("m:1")))
    )

    entries = msgspec.json.decode(listing.openai(everything))["data"]

    assert [entry["owned_by"] for entry in entries] == ["library", "ns"]
    assert entries[1] == {"id": "ns/m:1", "object": "model", "created": 86_400, "owned_by": "ns"}


def test_one_model_is_given_under_the_spelling_that_was_asked_for() -> None:
    model = Listing(index(backend("a", hosted("llama3.2:latest")))).by_name["llama3.2:latest"]

    assert msgspec.json.decode(model.openai_as("LLAMA3.2"))["id"] == "LLAMA3.2"


NOW = datetime(2026, 1, 1, 12, 1, tzinfo=UTC)


def in_memory(*backends: BackendState) -> list[dict[str, Any]]:
    body = Listing(index(*backends)).in_memory(everything, now=NOW)
    found: list[dict[str, Any]] = msgspec.json.decode(body)["models"]
    return found


def holding(
    name: str, *loaded: LoadedModel, condition: BackendCondition = BackendCondition.OK
) -> BackendState:
    hosts = (hosted(model.name, details={"family": "f", "parent_model": "/canary"}) for model in loaded)
    return msgspec.structs.replace(backend(name, *hosts, condition=condition), in_memory=loaded)


def test_a_model_in_memory_is_told_with_what_clients_need() -> None:
    loaded = LoadedModel("m:1", size=9, size_vram=4, context_length=2048, expires_at="2026-01-01T12:03:00Z")

    assert in_memory(holding("a", loaded)) == [
        {
            "name": "m:1",
            "model": "m:1",
            "size": 9,
            "digest": "aa",
            "details": {"family": "f"},
            "expires_at": "2026-01-01T12:05:00Z",
            "size_vram": 4,
            "context_length": 2048,
        }
    ]


@pytest.mark.parametrize(
    ("expires_at", "told"),
    [
        ("2026-01-01T12:05:00Z", "2026-01-01T12:05:00Z"),
        ("2026-01-01T12:05:00.1Z", "2026-01-01T12:10:00Z"),
        ("2025-12-31T00:00:00Z", "2026-01-01T12:05:00Z"),
        ("nonsense", "2026-01-01T12:05:00Z"),
        ("2318-01-01T00:00:00Z", "2318-01-01T00:00:00Z"),
    ],
)
def test_the_expiry_is_to_come_and_does_not_tell_of_the_last_use(expires_at: str, told: str) -> None:
    (model,) = in_memory(holding("a", LoadedModel("m:1", expires_at=expires_at)))

    assert model["expires_at"] == told


def test_a_model_in_memory_twice_is_told_once_as_the_first_backend_has_it() -> None:
    first, second = LoadedModel("m:1", size=1), LoadedModel("m:1", size=2)

    assert [model["size"] for model in in_memory(holding("a", first), holding("b", second))] == [1]


def test_what_stays_longest_in_memory_comes_first() -> None:
    soon, late = (LoadedModel(f"m:{day}", expires_at=f"2026-02-0{day}T00:00:00Z") for day in (1, 2))

    assert [model["name"] for model in in_memory(holding("a", soon, late))] == ["m:2", "m:1"]


def test_nobody_is_told_of_a_model_in_memory_that_is_not_theirs_or_not_listed() -> None:
    unlisted = msgspec.structs.replace(backend("a"), in_memory=(LoadedModel("m:1"),))

    assert in_memory(unlisted) == []
    assert (
        Listing(index(holding("a", LoadedModel("m:1")))).in_memory(lambda _: False, now=NOW)
        == b'{"models":[]}'
    )


def test_details_that_tell_of_the_host_are_not_listed() -> None:
    details: dict[str, object] = {
        "family": "f",
        "parent_model": "/models/canary",
        "format": "/canary",
        "host": "canary",
    }

    assert only(backend("a", hosted(details=details)))["details"] == {"family": "f"}


def test_stale_backends_are_listed_and_silent_ones_are_not() -> None:
    entries = native(
        backend("a", hosted("stale:1"), condition=STALE), backend("b", hosted("silent:1"), condition=SILENT)
    )

    assert [entry["name"] for entry in entries] == ["stale:1"]


def test_a_silent_backend_neither_merges_nor_lowers_the_version() -> None:
    listing = Listing(
        index(
            backend("a", hosted(capabilities=("tools",)), version="0.33.0"),
            backend("b", hosted(capabilities=("vision",)), version="0.1.0", condition=SILENT),
        )
    )

    assert msgspec.json.decode(listing.native(everything))["models"][0]["capabilities"] == ["tools"]
    assert listing.version == "0.33.0"


@pytest.mark.parametrize(
    ("versions", "lowest"),
    [
        (("0.33.0",), "0.33.0"),
        (("0.9.0", "0.10.0"), "0.9.0"),
        (("0.33.0-rc2", "0.33.1"), "0.33.0"),
        (("0.33", "0.33.0"), "0.33"),
        (("1.0.0", None), "1.0.0"),
        (("dev", "0.33.0"), "0.33.0"),
        (("0.0.0", "0.33.0"), "0.0.0"),
        (("unknown",), NO_VERSION),
        ((None,), NO_VERSION),
        ((), NO_VERSION),
    ],
)
def test_the_version_is_the_lowest_in_dotted_integers(versions: tuple[str | None, ...], lowest: str) -> None:
    backends = (backend(f"b{number}", version=version) for number, version in enumerate(versions))

    assert Listing(index(*backends)).version == lowest
