import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.model_names import (
    MAX_NAME_CHARS,
    CanonicalName,
    ModelRights,
    RightsMatcher,
    canonical,
    is_cloud,
    matches,
    normal_pattern,
)
from domain.values import Rights
from tests.support.counts import count

pytestmark = pytest.mark.parser

SAME_AS_LLAMA3 = (
    "llama3",
    "llama3:latest",
    "LLAMA3",
    "library/llama3",
    "registry.ollama.ai/library/llama3:latest",
    "http://registry.ollama.ai/library/llama3",
    "https://Registry.Ollama.AI/Library/Llama3:LATEST",
    " llama3 ",
    "\u3000llama3\n",
    "llama3:local",
    "llama3: Local ",
    "llama3:latest:local",
)

NO_NAMES = (
    "",
    " ",
    ":",
    "/",
    "llama3:",
    ":latest",
    "/llama3",
    "library/",
    "a//b",
    "host/a/b/c/d:e",
    "registry.ollama.ai/llama3",
    "http://llama3",
    "ftp://registry.ollama.ai/library/llama3",
    "://registry.ollama.ai/library/llama3",
    "llama3@sha256:" + "0" * 64,
    "-llama3",
    ".llama3",
    "llama3:-x",
    "ll ama3",
    "llama3\x00",
    "\x1cllama3",
    "llama3\u202e",
    "\uff4c\uff4c\uff41\uff4d\uff41\uff13",
    "l\u0131ama3",
    "\u212aimi",
    "../etc/passwd",
    "llama3:local:local",
    "llama3:cloud:local",
    "llama3:local:cloud",
    "llama3:8b-cloud:cloud",
    "llama3:-cloud",
    "llama3:local\x1c",
    "m" * 81,
    "m:" + "t" * 81,
    "n" * 81 + "/m",
    "h" * 351 + "/n/m",
    " " * 700 + "llama3",
)

CLOUD_NAMES = {
    "gpt-oss:cloud": "gpt-oss:cloud",
    "gpt-oss:latest-cloud": "gpt-oss:cloud",
    "gpt-oss: cloud": "gpt-oss:cloud",
    "gpt-oss:cloud ": "gpt-oss:cloud",
    "gpt-oss:20b-cloud": "gpt-oss:20b-cloud",
    "gpt-oss:20b-CLOUD": "gpt-oss:20b-cloud",
    "gpt-oss:20b:cloud": "gpt-oss:20b-cloud",
    "ns/gpt-oss:120b-cloud": "ns/gpt-oss:120b-cloud",
    "latest:latest/ns/m:cloud": "latest:latest/ns/m:cloud",
}

EXACT_NAMES = (
    "llama3",
    "llama3:latest",
    "my-cloud-model",
    "qwen3:8b",
    "ns/m:t",
    "hf.co/user/repo:q4_k_m",
    "host:5000/n/m",
)


@pytest.mark.parametrize("text", SAME_AS_LLAMA3)
def test_every_spelling_of_one_model_has_one_canonical_name(text: str) -> None:
    name = canonical(text)

    assert name is not None
    assert name.display == "llama3:latest"


@pytest.mark.parametrize("text", ["llama3", "llama*"])
def test_a_name_is_read_up_to_its_longest_length(text: str) -> None:
    longest = text.rjust(MAX_NAME_CHARS)

    assert normal_pattern(longest) == normal_pattern(text) is not None
    assert normal_pattern(f" {longest}") is None
    assert (canonical(longest) is None) is ("*" in text)
    assert canonical(f" {longest}") is None


def test_the_port_of_a_host_is_no_tag() -> None:
    name = canonical("http://host:5000/n/m")

    assert name is not None
    assert name.display == "host:5000/n/m:latest"


@pytest.mark.parametrize("text", NO_NAMES)
def test_what_ollama_takes_for_no_name_is_none(text: str) -> None:
    assert canonical(text) is None


@pytest.mark.parametrize(("text", "display"), CLOUD_NAMES.items())
def test_a_cloud_name_is_a_name_of_its_own(text: str, display: str) -> None:
    name = canonical(text)

    assert name is not None
    assert (name.display, name.needs_echo) == (display, text != display)
    assert is_cloud(text)
    assert is_cloud(display)


@pytest.mark.parametrize(
    "text", ["llama3", "my-cloud-model", "a-cloud/m", "cloud", "x:cloudy", "x:local", "h:1/n/m-cloud"]
)
def test_only_the_tag_makes_a_name_a_cloud_name(text: str) -> None:
    assert not is_cloud(text)
    assert canonical(text) is not None


def test_what_is_longer_than_any_name_is_no_cloud_name() -> None:
    longest = "x" * (MAX_NAME_CHARS - len(":cloud"))

    assert is_cloud(f"{longest}:cloud")
    assert not is_cloud(f"{longest}x:cloud")


def test_space_that_go_leaves_makes_another_tag() -> None:
    assert is_cloud("x:cloud\u3000")
    assert not is_cloud("x:cloud\x1c")


@pytest.mark.parametrize("text", EXACT_NAMES)
def test_a_plain_name_is_forwarded_as_written_and_needs_no_echo(text: str) -> None:
    name = canonical(text)

    assert name is not None
    assert (name.forwarded, name.needs_echo) == (text, False)


@pytest.mark.parametrize("text", [text for text in SAME_AS_LLAMA3 if text not in {"llama3", "llama3:latest"}])
def test_an_exotic_spelling_is_forwarded_canonically_and_needs_an_echo(text: str) -> None:
    assert canonical(text) == CanonicalName("llama3:latest", "llama3:latest", needs_echo=True)


def test_other_hosts_and_namespaces_are_other_models() -> None:
    names = {
        canonical(text)
        for text in ("m", "ns/m", "hf.co/ns/m", "huggingface.co/ns/m", "hf.co:443/ns/m", "m:8b")
    }

    assert len(names) == 6


def test_the_longest_parts_are_still_a_name() -> None:
    assert canonical(f"{'h' * 350}/{'n' * 80}/{'m' * 80}:{'t' * 80}") is not None


@given(st.text(st.sampled_from("aA0_.:/-@ \u00a0clouda"), max_size=24) | st.text(max_size=24))
@settings(max_examples=count(800, 50_000), deadline=None)
def test_the_canonical_name_of_a_canonical_name_is_itself(text: str) -> None:
    name = canonical(text)

    if name is not None:
        again = canonical(name.display)
        assert again == CanonicalName(name.display, name.display, needs_echo=False)
        forwarded = canonical(name.forwarded)
        assert forwarded is not None
        assert forwarded.display == name.display
        assert re.fullmatch(r"[a-z0-9_.:/-]+", name.display)
        assert is_cloud(name.forwarded) == is_cloud(name.display) == is_cloud(text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("llama3", "llama3"),
        ("LLAMA3", "library/llama3:latest"),
        ("registry.ollama.ai/library/llama3", "llama3"),
        ("llama3:8b", "llama3:8b"),
        ("*", "hf.co/user/repo:q4"),
        ("qwen*", "qwen2.5:7b"),
        ("Qwen*", "QWEN3"),
        ("*:8b", "llama3:8b"),
        ("llama?", "llama3"),
        ("llama?:*", "llama3:70b"),
        ("hf.co/user/*", "hf.co/user/repo:q4"),
        ("library/*", "llama3"),
        ("registry.ollama.ai/*", "ns/m"),
        ("registry.ollama.ai/library/l*", "llama3"),
        ("a*b*c", "axbxxbyc"),
        ("a*b*c*d", "a1b2c3d"),
        ("h:1/n/m?", "h:1/n/mx"),
        ("**", "m"),
    ],
)
def test_a_pattern_covers(pattern: str, text: str) -> None:
    assert _matches(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("llama3", "llama3:8b"),
        ("llama3:8b", "llama3"),
        ("llama?", "llama3:70b"),
        ("llama?", "llama"),
        ("library/*", "ns/m"),
        ("registry.ollama.ai/*", "hf.co/ns/m"),
        ("registry.ollama.ai/library/*", "ns/m"),
        ("lama*", "llama3"),
        ("l*x*3", "llama3"),
        ("l*a*x*3", "llama3"),
        ("llama3.2", "llama3x2"),
        ("[a-z]*", "llama3"),
        ("llama3:cloud", "llama3"),
        ("", "llama3"),
        ("not a name", "llama3"),
        ("x" * 700 + "*", "x"),
    ],
)
def test_a_pattern_does_not_cover(pattern: str, text: str) -> None:
    assert not _matches(pattern, text)


def test_a_pattern_that_can_never_match_has_no_normal_form() -> None:
    assert normal_pattern("llama3:cloud:local") is None
    assert normal_pattern("lla ma*") is None
    assert normal_pattern("llama*\x1c") is None
    assert normal_pattern("Library/Llama3") == "llama3:latest"


def test_matching_many_stars_takes_no_exponential_time() -> None:
    assert not _matches("*a" * 60 + "b", "a" * 80 + ":" + "a" * 80)


@pytest.mark.parametrize(
    ("tenant", "key", "allowed"),
    [
        (Rights(), None, False),
        (Rights(allow_all_models=True), None, True),
        (Rights(patterns=("llama3",)), None, True),
        (Rights(patterns=("llama3",)), Rights(allow_all_models=True), True),
        (Rights(), Rights(allow_all_models=True), False),
        (Rights(allow_all_models=True), Rights(), False),
        (Rights(allow_all_models=True), Rights(patterns=("llama3",)), True),
        (Rights(allow_all_models=True), Rights(patterns=("qwen*",)), False),
        (Rights(patterns=("qwen*",)), Rights(patterns=("llama3",)), False),
    ],
)
def test_a_keys_rights_lie_within_its_tenants(tenant: Rights, key: Rights | None, *, allowed: bool) -> None:
    name = canonical("llama3")

    assert name is not None
    assert ModelRights(tenant, key).permit(name) is allowed


def test_one_damaged_pattern_does_not_spoil_the_others() -> None:
    name = canonical("llama3")

    assert name is not None
    assert RightsMatcher(Rights(patterns=("\x00", "llama3"))).permits(name)


def _matches(pattern: str, text: str) -> bool:
    name = canonical(text)
    assert name is not None
    return matches(pattern, name)
