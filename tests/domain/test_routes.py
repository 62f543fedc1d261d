"""What is known of each inference route."""

import pytest

from domain.routes import (
    POLICED_OPTIONS,
    STREAM_OPTION_FIELDS,
    RouteKind,
    inference_routes,
)
from domain.values import ApiFamily

NATIVE, OPENAI = ApiFamily.NATIVE, ApiFamily.OPENAI
GENERATE, CHAT, EMBED = RouteKind.GENERATE, RouteKind.CHAT, RouteKind.EMBED


@pytest.mark.parametrize(
    ("path", "family", "kind", "cap", "prompt"),
    [
        ("/api/generate", NATIVE, GENERATE, "num_predict", ("prompt", "suffix", "system", "template")),
        ("/api/chat", NATIVE, CHAT, "num_predict", ()),
        ("/api/embed", NATIVE, EMBED, None, ()),
        ("/api/embeddings", NATIVE, EMBED, None, ("prompt",)),
        ("/v1/chat/completions", OPENAI, CHAT, "max_tokens", ()),
        ("/v1/completions", OPENAI, GENERATE, "max_tokens", ("prompt", "suffix")),
        ("/v1/embeddings", OPENAI, EMBED, None, ()),
        ("/v1/responses", ApiFamily.RESPONSES, CHAT, "max_output_tokens", ()),
        ("/v1/messages", ApiFamily.ANTHROPIC, CHAT, "max_tokens", ("system",)),
    ],
)
def test_a_route_is_what_ollama_makes_of_its_path(
    path: str, family: ApiFamily, kind: RouteKind, cap: str | None, prompt: tuple[str, ...]
) -> None:
    spec = inference_routes()[path]

    assert (spec.path, spec.family, spec.kind) == (path, family, kind)
    assert (spec.output_cap_field, spec.prompt_fields) == (cap, prompt)
    assert spec.can_stream is (kind is not EMBED)
    assert spec.streams_by_default is (family is NATIVE and kind is not EMBED)


def test_there_are_nine_routes() -> None:
    assert len(inference_routes()) == 9


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/generate", {"keep_alive", "think", "shift", "system", "template", "context", "raw"}),
        ("/api/chat", {"keep_alive", "think", "shift"}),
        ("/api/embed", {"keep_alive"}),
        ("/api/embeddings", {"keep_alive"}),
    ],
)
def test_a_policy_s_own_values_go_where_ollama_reads_them(path: str, fields: set[str]) -> None:
    spec = inference_routes()[path]

    assert spec.policed == {name: name for name in fields}
    assert spec.imposed_as == {name: name for name in fields | POLICED_OPTIONS}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/chat/completions", ["reasoning", "reasoning_effort"]),
        ("/v1/completions", []),
        ("/v1/embeddings", []),
        ("/v1/responses", ["reasoning"]),
        ("/v1/messages", ["thinking", "output_config"]),
    ],
)
def test_other_families_have_other_words_for_thinking(path: str, words: list[str]) -> None:
    spec = inference_routes()[path]

    assert spec.policed == dict.fromkeys(words, "think")
    assert spec.imposed_as == ({"think": words[-1]} if words else {})


def test_what_is_neither_forwarded_nor_policed_nor_refused_is_withheld() -> None:
    for path, spec in inference_routes().items():
        withheld = spec.known.names - spec.forwarded - spec.policed.keys() - spec.refused.keys()
        expected = {"_debug_render_only"} if spec.can_stream and spec.family in {NATIVE, OPENAI} else set()
        if spec.can_stream and spec.family is OPENAI:
            expected |= {"stream_options", "max_completion_tokens"}

        assert withheld == expected, path


def test_only_what_leans_on_a_kept_response_is_refused() -> None:
    for path, spec in inference_routes().items():
        wanted = {"previous_response_id", "conversation", "background", "prompt"}

        assert spec.refused.keys() == (wanted if path == "/v1/responses" else set())


def test_an_extra_field_is_known_and_forwarded_on_every_route() -> None:
    for spec in inference_routes(frozenset({"cache_salt"})).values():
        assert {"cache_salt"} <= spec.forwarded & spec.known.names


@pytest.mark.parametrize("path", inference_routes())
def test_images_make_bodies_large_where_they_are_taken(path: str) -> None:
    assert inference_routes()[path].takes_images is ("embed" not in path and path != "/v1/completions")


def test_one_stream_option_means_something() -> None:
    assert STREAM_OPTION_FIELDS.names == {"include_usage"}
