"""Model names are matched as Ollama matches them."""

import pytest

from app.simulator.models import canonical_name, parse_model_list


@pytest.mark.parametrize(
    "spelling",
    [
        "llama3",
        "llama3:latest",
        "LLAMA3",
        "library/llama3",
        "registry.ollama.ai/library/llama3:latest",
        "http://registry.ollama.ai/library/llama3",
        " llama3 ",
        "llama3:local",
    ],
)
def test_all_spellings_are_one_model(spelling: str) -> None:
    assert canonical_name(spelling) == "llama3:latest"


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("hf.co/user/repo:Q4_K_M", "hf.co/user/repo:q4_k_m"), ("me/model", "me/model:latest"), ("a:8b", "a:8b")],
)
def test_hosts_namespaces_and_tags_stay(spelling: str, name: str) -> None:
    assert canonical_name(spelling) == name


@pytest.mark.parametrize("spelling", ["", "a@sha256", "a b", "-a", "a/b/c/d", "a:", "a" * 81])
def test_invalid_names_match_nothing(spelling: str) -> None:
    assert canonical_name(spelling) is None


def test_digest_depends_on_the_name_unless_given() -> None:
    plain, pinned = parse_model_list("a:1, b@cafe")

    assert plain.digest == parse_model_list("A:1")[0].digest
    assert pinned.digest == "cafe"
