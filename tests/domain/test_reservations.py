"""What a request reserves of its token limits."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import PromptTooLarge
from domain.prompts import Prompt
from domain.requests import parse_request
from domain.reservations import TOKENS_PER_MESSAGE, Reservation, estimate, probable, reserve
from domain.routes import inference_routes

ROUTES = inference_routes()
IMAGE = 1000


def prompt(text_bytes: int, *, images: int = 0, messages: int = 1, texts: int = 1) -> Prompt:
    return Prompt(text_bytes, images, is_empty=False, text_bytes=text_bytes, messages=messages, texts=texts)


def measured(path: str, **fields: object) -> tuple[int, int, int]:
    """Return bytes, messages and texts of a request's prompt."""
    body = json.dumps({"model": "m", **fields}, ensure_ascii=False, separators=(",", ":")).encode()
    found = parse_request(ROUTES[path], body).prompt
    return found.text_bytes, found.messages, found.texts


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        ("/api/generate", {"prompt": "12345", "system": "123", "suffix": "1"}, (9, 1, 1)),
        ("/api/generate", {"prompt": "grüße"}, (7, 1, 1)),
        ("/api/generate", {"prompt": "\U0001f600"}, (4, 1, 1)),
        ("/api/generate", {"prompt": "1", "context": [1, 2, 3]}, (4, 1, 1)),
        ("/api/generate", {"prompt": "1", "format": {"type": "object"}}, (1 + 17, 1, 1)),
        ("/api/generate", {"prompt": "1", "images": ["AAAA"]}, (1, 1, 1)),
        ("/api/chat", {"messages": [{"role": "user", "content": "ü"}, {"content": "12"}]}, (8, 2, 1)),
        ("/api/chat", {"messages": [{"content": "12", "images": ["AAAA"]}]}, (2, 1, 1)),
        ("/api/chat", {"messages": [{"role": "r" * 1000, "content": ""}]}, (1000, 1, 1)),
        ("/api/chat", {"messages": [{"content": "12"}], "tools": [{"a": "b"}]}, (2 + 11, 1, 1)),
        ("/api/chat", {"messages": [{"content": "1"}], "format": "json"}, (1 + 6, 1, 1)),
        ("/api/chat", {"messages": [{"tool_calls": [{"f": {"ab": 123}}]}]}, (18, 1, 1)),
        ("/api/chat", {"messages": [{"Tool_Calls": [{"f": {"ab": 123}}]}]}, (18, 1, 1)),
        # Go writes some characters of JSON as six: \u003c, \u003e and \u0026.
        ("/api/chat", {"messages": [], "tools": [{"a": "<>&"}]}, (13 + 3 * 5, 0, 1)),
        ("/api/chat", {"messages": [{"tool_calls": [{"f": "<"}]}]}, (1 + 11 + 5, 1, 1)),
        ("/api/generate", {"prompt": "<", "format": {"a": "&"}}, (1 + 9 + 5, 1, 1)),
        ("/api/chat", {"messages": []}, (0, 0, 1)),
        (
            "/v1/chat/completions",
            {"messages": [{"content": "1"}], "response_format": {"a": 1}},
            (1 + 7, 1, 1),
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"content": [{"text": "ü"}, {"image_url": {"url": "A" * 99}}]}]},
            (2, 1, 1),
        ),
        ("/v1/completions", {"prompt": "123", "suffix": "4"}, (4, 1, 1)),
        ("/api/embed", {"input": ["123", "ü"]}, (5, 2, 2)),
        ("/v1/embeddings", {"input": "123"}, (3, 1, 1)),
        ("/api/embeddings", {"prompt": "123"}, (3, 1, 1)),
    ],
)
def test_all_that_can_become_tokens_is_measured_in_bytes(
    path: str, fields: dict[str, object], expected: tuple[int, int, int]
) -> None:
    assert measured(path, **fields) == expected


@given(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.text("aü€\U0001f600")))
def test_texts_are_measured_as_utf_8(text: str, inputs: list[str]) -> None:
    assert measured("/api/generate", prompt=text)[0] == len(text.encode())
    assert measured("/api/embed", input=inputs)[0] == len("".join(inputs).encode())


@pytest.mark.parametrize(
    ("read", "context_length", "tokens"),
    [
        (prompt(100), None, 132),
        (prompt(100, messages=3), None, 196),
        (prompt(100), 132, 132),
        (prompt(100), 131, 131),
        (prompt(10_000, messages=9), 512, 512),
        (prompt(100, images=2), None, 2132),
        (prompt(100, images=2), 50, 2050),  # images are counted apart from the text
        (prompt(10_000, messages=3, texts=3), 512, 1536),  # each text of a batch has a context of its own
        (prompt(0, messages=0, texts=0), 512, 0),
    ],
)
def test_a_prompt_counts_its_bytes_or_its_whole_context(
    read: Prompt, context_length: int | None, tokens: int
) -> None:
    assert estimate(read, context_length=context_length, image_tokens=IMAGE) == tokens


@pytest.mark.parametrize(
    ("path", "fields", "context_length", "tokens"),
    [
        ("/api/generate", {"prompt": "x" * 40}, None, 10),
        ("/api/generate", {"prompt": "你好" * 20}, None, 30),  # more tokens to the letter than English has
        ("/api/generate", {"prompt": "x" * 40}, 9, 9),
        ("/api/generate", {"prompt": "x" * 40, "images": ["AAAA", "AAAA"]}, 9, 9 + 2 * IMAGE),
        ("/api/generate", {"prompt": "x" * 40, "context": [1, 2, 3]}, None, 10 + 3),
        ("/api/chat", {"messages": [{"content": "x" * 40, "images": ["AAAA"]}]}, None, 10 + IMAGE),
        (
            "/v1/chat/completions",
            {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
            None,
            IMAGE,
        ),
        ("/api/embed", {"input": ["x" * 40, "x" * 40]}, 9, 18),
    ],
)
def test_a_prompt_that_nobody_reported_is_charged_by_its_text_images_and_context(
    path: str, fields: dict[str, object], context_length: int | None, tokens: int
) -> None:
    body = json.dumps({"model": "m", **fields}).encode()
    read = parse_request(ROUTES[path], body).prompt

    assert probable(read, context_length=context_length, image_tokens=IMAGE) == tokens


@given(
    text=st.text(st.characters(exclude_categories=["Cs"])),
    context=st.lists(st.integers(0, 10**5), max_size=50),
    images=st.integers(0, 5),
    context_length=st.none() | st.integers(1, 100),
)
def test_what_a_prompt_is_charged_unreported_was_reserved(
    text: str, context: list[int], images: int, context_length: int | None
) -> None:
    fields = {"model": "m", "prompt": text, "context": context, "images": ["AAAA"] * images}
    read = parse_request(ROUTES["/api/generate"], json.dumps(fields).encode()).prompt
    charged = probable(read, context_length=context_length, image_tokens=IMAGE)

    assert charged <= estimate(read, context_length=context_length, image_tokens=IMAGE)


@pytest.mark.parametrize(
    ("output_cap", "limit", "reserved"),
    [
        (500, None, (632, 500)),
        (500, 632, (632, 500)),
        (500, 631, (631, 499)),
        (500, 133, (133, 1)),
        (None, None, (132, None)),
        (None, 132, (132, None)),
    ],
)
def test_the_output_cap_shrinks_to_fit_the_whole_limit(
    output_cap: int | None, limit: int | None, reserved: tuple[int, int | None]
) -> None:
    assert reserve(
        prompt(100),
        output_cap=output_cap,
        context_length=None,
        image_tokens=IMAGE,
        smallest_token_limit=limit,
    ) == Reservation(*reserved)


@pytest.mark.parametrize(("output_cap", "limit"), [(500, 132), (1, 132), (None, 131)])
def test_a_prompt_larger_than_a_whole_limit_is_refused(output_cap: int | None, limit: int) -> None:
    with pytest.raises(PromptTooLarge) as refusal:
        reserve(
            prompt(100),
            output_cap=output_cap,
            context_length=None,
            image_tokens=IMAGE,
            smallest_token_limit=limit,
        )

    assert (refusal.value.tokens, refusal.value.limit) == (132, limit)


@given(
    text_bytes=st.integers(0, 10**6),
    images=st.integers(0, 5),
    messages=st.integers(0, 50),
    output_cap=st.none() | st.integers(1, 10**7),
    context_length=st.none() | st.integers(1, 10**6),
    limit=st.none() | st.integers(1, 10**7),
)
def test_a_reservation_never_exceeds_the_smallest_limit_and_always_leaves_output(
    *,
    text_bytes: int,
    images: int,
    messages: int,
    output_cap: int | None,
    context_length: int | None,
    limit: int | None,
) -> None:
    read = prompt(text_bytes, images=images, messages=messages)
    needed = estimate(read, context_length=context_length, image_tokens=IMAGE)
    try:
        found = reserve(
            read,
            output_cap=output_cap,
            context_length=context_length,
            image_tokens=IMAGE,
            smallest_token_limit=limit,
        )
    except PromptTooLarge:
        assert limit is not None
        assert needed + (output_cap is not None) > limit
        return

    assert found.tokens == needed + (found.output_cap or 0)
    assert limit is None or found.tokens <= limit
    assert (found.output_cap is None) is (output_cap is None)
    if output_cap is not None and found.output_cap is not None:
        assert 1 <= found.output_cap <= output_cap
        assert found.output_cap == output_cap or found.tokens == limit


def test_a_template_may_add_this_much_to_each_message() -> None:
    assert TOKENS_PER_MESSAGE == 32
