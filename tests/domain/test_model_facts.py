"""What tenants are told of a model: only what is named, and only if it looks like it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.model_facts import MAX_LICENSE_CHARS, ModelFacts, read_facts, show_answer
from tests.support.counts import count

pytestmark = pytest.mark.parser

CANARY = "/canary/of/the/host"
SAID: dict[str, Any] = {
    "license": "MIT",
    "modelfile": f"FROM {CANARY}",
    "parameters": f'num_gpu 99\nstop                           "<|end|>"\nnum_ctx 8192\npath {CANARY}\ntemperature 0.6',
    "template": f"{CANARY}{{{{ .Prompt }}}}",
    "system": CANARY,
    "messages": [{"role": "user", "content": CANARY}],
    "details": {
        "parent_model": CANARY,
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "new": CANARY,
    },
    "model_info": {
        "general.architecture": "llama",
        "general.name": CANARY,
        "general.basename": CANARY,
        "general.parameter_count": 7,
        "general.size_label": "3B",
        "llama.context_length": 8192,
        "llama.rope.freq_base": 5e5,
        "llama.attention.sliding": True,
        "llama.source": CANARY,
        "llama.list": [1],
        "other.context_length": 1,
        "tokenizer.ggml.tokens": [CANARY],
    },
    "projector_info": {"general.name": CANARY},
    "tensors": [{"name": CANARY}],
    "capabilities": ["completion", "tools", CANARY, 7],
    "modified_at": "2026-01-01T00:00:00Z",
    "remote_host": CANARY,
    "remote_model": CANARY,
    "something_new": CANARY,
}


def facts(**changes: object) -> ModelFacts:
    found = read_facts(msgspec.json.encode({**SAID, **changes}))
    assert found is not None
    return found


def told(
    of: ModelFacts | None = None,
    *,
    capabilities: tuple[str, ...] | None = None,
    context_length: int | None = None,
) -> dict[str, Any]:
    body = show_answer(
        of or facts(),
        name="m:1",
        requested="M:1",
        capabilities=capabilities,
        context_length=context_length,
    )
    found: dict[str, Any] = msgspec.json.decode(body)
    return found


def test_a_tenant_is_told_this_and_nothing_else() -> None:
    assert told() == {
        "modelfile": "FROM m:1\n",
        "template": "{{ .Prompt }}{{ .Tools }}",
        "details": {"format": "gguf", "family": "llama", "families": ["llama"]},
        "model_info": {
            "general.architecture": "llama",
            "general.basename": "M:1",
            "general.parameter_count": 7,
            "general.size_label": "3B",
            "llama.context_length": 8192,
            "llama.rope.freq_base": 5e5,
            "llama.attention.sliding": True,
        },
        "capabilities": ["completion", "tools"],
        "parameters": 'stop                           "<|end|>"\nnum_ctx 8192\ntemperature 0.6',
        "license": "MIT",
    }


def test_a_long_licence_is_left_out() -> None:
    assert "license" in told(facts(license="x" * MAX_LICENSE_CHARS))
    assert "license" not in told(facts(license="x" * (MAX_LICENSE_CHARS + 1)))


def test_no_more_is_promised_than_every_backend_offers() -> None:
    bounded = told(capabilities=("completion", "vision"), context_length=4096)

    assert bounded["capabilities"] == ["completion"]
    assert bounded["template"] == "{{ .Prompt }}"
    assert bounded["model_info"]["llama.context_length"] == 4096
    assert told(context_length=10**6)["model_info"]["llama.context_length"] == 8192


def test_an_older_backend_that_tells_no_capabilities_offers_what_the_lists_say() -> None:
    silent = facts(capabilities=None)

    assert told(silent)["capabilities"] == []
    assert told(silent, capabilities=("insert",))["template"] == "{{ .Prompt }}{{ .Suffix }}"


@pytest.mark.parametrize(
    "odd",
    [
        {"details": None},
        {"details": []},
        {"details": {"family": {"a": 1}, "families": [1], "format": "x" * 65}},
        {"model_info": None},
        {"model_info": {"general.architecture": CANARY, f"{CANARY}.context_length": 1}},
        {"model_info": {"general.architecture": "", ".context_length": 1}},
        {"model_info": {"general.architecture": 7, "7.context_length": 1}},
        {"capabilities": {}},
        {"parameters": ["stop x"]},
        {"parameters": f"stop {'x' * 300}\nstop\nSTOP x\nseed \x00"},
        {"license": ["MIT"]},
    ],
    ids=str,
)
def test_what_does_not_look_like_it_is_left_out(odd: dict[str, object]) -> None:
    answer = str(told(facts(**odd)))

    assert CANARY not in answer
    assert len(answer) < 900


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_answer_of_ollama_s_gives_no_facts(body: bytes) -> None:
    assert read_facts(body) is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.just(CANARY),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*SAID, CANARY, "llama.x"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*SAID, CANARY]), _JSON))
@settings(max_examples=count(200, 20_000), deadline=None)
def test_whatever_a_backend_says_no_path_gets_through(said: dict[str, object]) -> None:
    said.pop("license", None)  # the one text that is shown as it is
    found = read_facts(msgspec.json.encode(said))

    assert found is not None
    assert CANARY not in str(told(found))
