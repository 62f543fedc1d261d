"""Stage 2: a model that is absent, not granted, no name or in the cloud gets one and the same refusal."""

import pytest

from domain.authorize import NO_WEB_TOOLS, able_to_search, authorize
from domain.errors import BadRequest, ModelForbidden
from domain.model_names import ModelRights
from domain.values import Rights
from tests.support.tables import backend, hosted, index

INDEX = index(backend("a", hosted("llama3.2:latest"), hosted("qwen3:8b")), backend("b", hosted("qwen3:8b")))
EVERYTHING = ModelRights(Rights(allow_all_models=True), None)
ONLY_LLAMA = ModelRights(Rights(patterns=("llama3.2",)), None)


def test_a_granted_hosted_model_gives_its_name_and_who_hosts_it() -> None:
    name, candidates = authorize("qwen3:8b", rights=EVERYTHING, index=INDEX)

    assert name.display == "qwen3:8b"
    assert [candidate.backend for candidate in candidates] == ["a", "b"]


@pytest.mark.parametrize(
    "spelling",
    ["llama3.2", "LLAMA3.2", " llama3.2 ", "library/llama3.2", "registry.ollama.ai/library/llama3.2:latest"],
)
def test_every_spelling_is_one_model(spelling: str) -> None:
    name, _ = authorize(spelling, rights=ONLY_LLAMA, index=INDEX)

    assert name.display == "llama3.2:latest"


@pytest.mark.parametrize(
    "model",
    [
        "qwen3:8b",  # hosted, not granted
        "llama3.2:70b",  # neither
        "phi4",  # neither
        "llama3.2:cloud",  # leaves the machine
        "llama3.2:8b-cloud",
        "",
        "no name!",
        "x" * 10_000,
        "llama3.2\0",
    ],
)
def test_every_no_is_the_same_no(model: str) -> None:
    with pytest.raises(ModelForbidden) as refusal:
        authorize(model, rights=ONLY_LLAMA, index=INDEX)

    assert refusal.value.args == ()


@pytest.mark.parametrize("spelling", ["llama3.2:8b-cloud", "llama3.2:8B:cloud", "library/llama3.2:8b-CLOUD"])
def test_a_cloud_model_that_a_backend_lists_is_a_model(spelling: str) -> None:
    listing = index(backend("a", hosted("llama3.2:8b")), backend("b", hosted("llama3.2:8b-cloud")))

    name, candidates = authorize(
        spelling, rights=ModelRights(Rights(patterns=("llama3.2:*",)), None), index=listing
    )

    assert (name.display, [c.backend for c in candidates]) == ("llama3.2:8b-cloud", ["b"])


def test_only_backends_that_may_use_the_cloud_search_the_web() -> None:
    listing = index(*(backend(name, hosted("m:1")) for name in "abc"), allow_cloud=("a", "c"))

    assert [candidate.backend for candidate in able_to_search(listing.candidates("m:1"))] == ["a", "c"]


def test_where_no_backend_may_nobody_searches_the_web() -> None:
    with pytest.raises(BadRequest, match="web_search") as refusal:
        able_to_search(INDEX.candidates("qwen3:8b"))

    assert refusal.value.message == NO_WEB_TOOLS


def test_embedding_asks_backends_of_one_digest_alone() -> None:
    listing = index(
        *(backend(name, hosted("m:1", digest=digest)) for name, digest in zip("abc", "121", strict=True))
    )

    _, embedders = authorize("m:1", rights=EVERYTHING, index=listing, embeds=True)
    _, candidates = authorize("m:1", rights=EVERYTHING, index=listing)

    assert [candidate.backend for candidate in embedders] == ["a", "c"]
    assert [candidate.backend for candidate in candidates] == ["a", "b", "c"]


def test_a_granted_model_that_nobody_hosts_is_forbidden_too() -> None:
    with pytest.raises(ModelForbidden):
        authorize("phi4", rights=EVERYTHING, index=INDEX)


def test_a_key_narrower_than_its_tenant_rules() -> None:
    narrow = ModelRights(Rights(allow_all_models=True), Rights(patterns=("llama3.2",)))

    with pytest.raises(ModelForbidden):
        authorize("qwen3:8b", rights=narrow, index=INDEX)


def test_a_key_wider_than_its_tenant_gains_nothing() -> None:
    wide = ModelRights(Rights(patterns=("llama3.2",)), Rights(allow_all_models=True))

    with pytest.raises(ModelForbidden):
        authorize("qwen3:8b", rights=wide, index=INDEX)
