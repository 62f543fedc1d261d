"""Stage 4: the operator's order, minus who cools down, silent ones last."""

import pytest

from domain.model_table import BackendCondition
from domain.route import Candidate, ModelIndex, eligible, rank
from tests.support.tables import backend, config_digests, hosted, index, table

SILENT, STALE, OK = BackendCondition.SILENT, BackendCondition.STALE, BackendCondition.OK
MODEL = hosted("m:1")


def names(candidates: tuple[Candidate, ...]) -> list[str]:
    return [candidate.backend for candidate in candidates]


def test_candidates_stand_in_the_operators_order() -> None:
    found = index(backend("z", MODEL), backend("a", MODEL), backend("k", hosted("other:1")))

    assert names(found.candidates("m:1")) == ["z", "a"]


def test_a_model_nobody_hosts_has_no_candidates() -> None:
    assert index(backend("a", MODEL)).candidates("other:1") == ()


def test_silent_backends_come_last_and_stale_ones_keep_their_place() -> None:
    found = index(
        backend("a", MODEL, condition=SILENT),
        backend("b", MODEL, condition=STALE),
        backend("c", MODEL, condition=SILENT),
        backend("d", MODEL, condition=OK),
    )

    assert names(found.candidates("m:1")) == ["b", "d", "a", "c"]


def test_each_candidate_knows_what_its_backend_said_of_itself() -> None:
    found = index(backend("a", MODEL, version="0.1.0"), backend("b", MODEL, version=None))

    assert [candidate.version for candidate in found.candidates("m:1")] == ["0.1.0", None]


def test_an_index_keeps_the_table_it_was_made_of() -> None:
    snapshot = table(backend("a", MODEL), version=7)

    assert ModelIndex(snapshot, {}).table is snapshot


def test_each_candidate_knows_its_own_digest_of_the_model() -> None:
    found = index(backend("a", hosted("m:1", digest="11")), backend("b", hosted("m:1", digest="22")))

    assert [candidate.model_digest for candidate in found.candidates("m:1")] == ["11", "22"]


@pytest.mark.parametrize(
    ("known", "bound"),
    [
        ([8192], 8192),
        ([1], 1),
        ([8192, 32_768], 32_768),
        ([8192, None], None),
        ([None], None),
        (["8192"], None),
        ([True], None),
        ([0], None),
    ],
)
def test_the_context_of_a_model_is_bounded_whichever_backend_answers(
    known: list[object], bound: int | None
) -> None:
    found = index(
        *(
            backend(f"b{place}", hosted("m:1", details={} if length is None else {"context_length": length}))
            for place, length in enumerate(known)
        )
    )

    assert found.context_length("m:1") == bound


@pytest.mark.parametrize(
    ("digests", "silent", "asked"),
    [
        (["1", "1", "1"], "", "abc"),
        (["1", "2", "1"], "", "ac"),
        (["2", "1", "1"], "", "a"),
        (["1", "2", "1"], "a", "ca"),
        (["1", "2", "2"], "a", "a"),
        (["", "", "1"], "", "a"),
    ],
)
def test_only_backends_with_the_first_ones_digest_embed(digests: list[str], silent: str, asked: str) -> None:
    found = index(
        *(
            backend(name, hosted("m:1", digest=digest), condition=SILENT if name in silent else OK)
            for name, digest in zip("abc", digests, strict=True)
        )
    )

    assert "".join(names(found.embedders("m:1"))) == asked
    assert len(found.candidates("m:1")) == 3


@pytest.mark.parametrize(("digests", "asked"), [("111", "bc"), ("121", "c"), ("122", "")])
def test_a_drained_backend_is_nobody_s_candidate_and_still_decides_which_digest_embeds(
    digests: str, asked: str
) -> None:
    found = index(
        *(
            backend(name, hosted("m:1", digest=digest), drained=name == "a")
            for name, digest in zip("abc", digests, strict=True)
        )
    )

    assert names(found.candidates("m:1")) == ["b", "c"]
    assert "".join(names(found.embedders("m:1"))) == asked
    assert found.drained == {"a"}


def test_a_model_of_drained_backends_alone_is_not_hosted() -> None:
    assert index(backend("a", MODEL, drained=True)).candidates("m:1") == ()


def test_a_model_nobody_hosts_has_no_embedders() -> None:
    assert index(backend("a", MODEL)).embedders("other:1") == ()


def test_a_model_nobody_hosts_has_no_known_context() -> None:
    assert index(backend("a", MODEL)).context_length("other:1") is None


def test_backends_with_another_configuration_are_ignored_and_reported() -> None:
    snapshot = table(backend("moved", MODEL), backend("a", MODEL), backend("unknown", MODEL))
    configured = {**config_digests("a"), "moved": "another digest"}

    found = ModelIndex(snapshot, configured)

    assert found.ignored == ("moved", "unknown")
    assert names(found.candidates("m:1")) == ["a"]
    assert [state.name for state in found.backends] == ["a"]


@pytest.mark.parametrize(
    ("silent", "cooling", "tried"),
    [
        ((), (), ["a", "b", "c"]),
        ((), ("a",), ["b", "c", "a"]),
        ((), ("a", "c"), ["b", "a", "c"]),
        ((), ("elsewhere",), ["a", "b", "c"]),
        ((), ("a", "b", "c"), ["a", "b", "c"]),
        (("c",), ("a",), ["b", "a", "c"]),
        (("c",), ("c",), ["a", "b", "c"]),
        (("c",), ("a", "b"), ["a", "b", "c"]),
        (("a", "b", "c"), ("a",), ["b", "c", "a"]),
    ],
)
def test_who_cools_down_is_tried_after_who_is_well_and_before_who_is_silent(
    silent: tuple[str, ...], cooling: tuple[str, ...], tried: list[str]
) -> None:
    found = index(*(backend(name, MODEL, condition=SILENT if name in silent else OK) for name in "abc"))

    assert names(rank(found.candidates("m:1"), cooling)) == tried


@pytest.mark.parametrize(
    ("cooling", "expected"),
    [((), ["a", "c"]), (("a",), ["c"]), (("a", "c"), ["a", "c", "silent"]), (("silent",), ["a", "c"])],
)
def test_who_is_waited_for_is_well_unless_nobody_is(cooling: tuple[str, ...], expected: list[str]) -> None:
    candidates = (
        Candidate("a", "aa", silent=False),
        Candidate("silent", "aa", silent=True),
        Candidate("c", "aa", silent=False),
    )

    assert [each.backend for each in eligible(candidates, cooling)] == expected
