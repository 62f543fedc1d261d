"""Each check of the backends: silent about what is well, and one finding for what is not."""

from datetime import timedelta

import msgspec
import pytest

from app.doctor import fleet
from app.doctor.findings import Finding, FindingKind, Level
from db.doctor_look import ColdLoads, GrantLook
from domain.model_table import BackendCondition
from tests.support.tables import WRITTEN_AT, backend, config_digests, hosted, table

LLAMA = hosted()


def kinds(found: tuple[Finding, ...]) -> list[tuple[FindingKind, Level, str]]:
    return [(each.kind, each.level, each.where) for each in found]


def test_no_table_is_an_error() -> None:
    assert kinds(tuple(fleet.of_table(None, now=WRITTEN_AT))) == [
        (FindingKind.TABLE_MISSING, Level.ERROR, "the model table")
    ]


@pytest.mark.parametrize(("age", "number"), [(timedelta(minutes=4), 0), (timedelta(minutes=6), 1)])
def test_a_table_that_nobody_writes_any_more_is_an_error(age: timedelta, number: int) -> None:
    assert len(tuple(fleet.of_table(table(), now=WRITTEN_AT + age))) == number


def test_other_backends_than_the_worker_s_are_told_one_by_one() -> None:
    known = table(backend("a"), backend("b"), backend("c"))
    configured = config_digests("a", "d") | {"b": "another address"}

    found = tuple(fleet.of_configuration(known, configured))

    assert [each.where for each in found] == ["b", "c", "d"]
    assert not tuple(fleet.of_configuration(known, config_digests("a", "b", "c")))


@pytest.mark.parametrize(
    "condition", [BackendCondition.STALE, BackendCondition.SILENT, BackendCondition.UNKNOWN]
)
def test_a_backend_that_does_not_answer_is_an_error(condition: BackendCondition) -> None:
    found = tuple(fleet.of_backends(table(backend("a"), backend("b", condition=condition))))

    assert kinds(found) == [(FindingKind.BACKEND_DOWN, Level.ERROR, "b")]


def test_a_drained_backend_is_worth_a_note_and_no_error_whatever_it_answers() -> None:
    drained = msgspec.structs.replace(backend("a", condition=BackendCondition.SILENT), drained=True)

    assert kinds(tuple(fleet.of_backends(table(drained)))) == [(FindingKind.BACKEND_DRAINED, Level.NOTE, "a")]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.17.1", []),
        ("0.33.0-rc2", []),
        ("1.0.0", []),
        ("0.17.0", [(FindingKind.BACKEND_OUTDATED, Level.ERROR, "a")]),
        ("0.9.12", [(FindingKind.BACKEND_OUTDATED, Level.ERROR, "a")]),
        ("0.0.0", [(FindingKind.BACKEND_VERSION_UNKNOWN, Level.NOTE, "a")]),
        ("dev", [(FindingKind.BACKEND_VERSION_UNKNOWN, Level.NOTE, "a")]),
        (None, [(FindingKind.BACKEND_VERSION_UNKNOWN, Level.NOTE, "a")]),
    ],
)
def test_versions_are_held_against_the_floor(
    version: str | None, expected: list[tuple[FindingKind, Level, str]]
) -> None:
    assert kinds(tuple(fleet.of_versions(table(backend("a", version=version))))) == expected


def test_one_tag_with_two_digests_names_both_sides() -> None:
    skewed = table(
        backend("a", LLAMA, hosted("qwen3:8b")),
        backend("b", hosted(digest="bb"), hosted("qwen3:8b")),
        backend("c", LLAMA),
    )

    (found,) = fleet.of_digests(skewed)

    assert (found.kind, found.where) == (FindingKind.DIGEST_SKEW, "llama3.2:latest")
    assert found.what == "llama3.2:latest is 2 different files: aa on a, c; bb on b."


def test_grants_that_fit_no_hosted_model_are_told_with_their_holders() -> None:
    known = table(backend("a", LLAMA))
    grants = (
        GrantLook("llama3.2:latest", "research", None),
        GrantLook("llama*", "research", None),
        GrantLook("gone:latest", "research", None),
        GrantLook("gone:latest", "teaching", "nng_4fT9xQ2b"),
        GrantLook("mistral*", "teaching", None),
    )

    exact, glob = fleet.of_grants(known, grants)

    assert kinds((exact, glob)) == [
        (FindingKind.MODEL_MISSING, Level.WARNING, "gone:latest"),
        (FindingKind.MODEL_MISSING, Level.NOTE, "mistral*"),
    ]
    assert "tenant research, key nng_4fT9xQ2b of tenant teaching" in exact.what


def test_a_cloud_model_that_is_missing_is_no_matter_of_pulling() -> None:
    (found,) = fleet.of_grants(
        table(backend("a", LLAMA)), (GrantLook("gpt-oss:120b-cloud", "research", None),)
    )

    assert found.kind is FindingKind.CLOUD_MODEL_MISSING
    assert "allow_cloud" in found.explanation.remedy


@pytest.mark.parametrize(
    ("loads", "number"),
    [
        (ColdLoads("a", "m", 40, 20, 60_000_000, 100_000_000), 1),
        (ColdLoads("a", "m", 4, 4, 60_000_000, 100_000_000), 0),
        (ColdLoads("a", "m", 4000, 20, 10_000_000, 100_000_000), 0),
        (ColdLoads("a", "m", 9, 0, 0, 0), 0),
    ],
)
def test_loading_again_and_again_is_told_where_it_takes_the_time(loads: ColdLoads, number: int) -> None:
    assert len(tuple(fleet.of_cold_loads([loads], span="24 hours"))) == number
