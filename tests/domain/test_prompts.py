"""How much a request asks a model to read."""

import pytest

from domain.errors import BadRequest
from tests.support.requests import parse


def test_empty_messages_are_refused_where_they_do_not_mean_a_load() -> None:
    with pytest.raises(BadRequest, match="at least one"):
        parse("/v1/chat/completions", messages=[])


@pytest.mark.parametrize(
    ("path", "fields", "prompt_bytes", "images"),
    [
        (
            "/api/generate",
            {"prompt": "12345", "system": "123", "suffix": "1", "images": ["AAAA", "BBBB"]},
            9,
            2,
        ),
        ("/api/chat", {"messages": [{"role": "user", "content": "12345", "images": ["A" * 999]}]}, 5, 1),
        ("/api/chat", {"messages": [{"Role": "", "Content": "12345", "Images": ["A" * 999]}]}, 5, 1),
        (
            "/api/chat",
            {"messages": [{"role": "assistant", "tool_calls": [{"f": {"arguments": {"a": "123"}}}]}]},
            3,
            0,
        ),
        ("/api/chat", {"messages": [{"content": "12"}], "tools": [{"a": "b"}]}, 14, 0),
        ("/api/embed", {"input": ["123", "45"]}, 5, 0),
        ("/api/embed", {"input": ["é", "你好"]}, 2 + 6, 0),
        ("/api/chat", {"messages": [{"content": "é你"}]}, 2 + 3, 0),
        ("/api/embed", {"input": "123"}, 3, 0),
        ("/v1/embeddings", {"input": ["123", "45"]}, 5, 0),
        ("/v1/completions", {"prompt": "123", "suffix": "4"}, 4, 0),
        (
            "/v1/chat/completions",
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "12345"},
                            {"type": "image_url", "image_url": {"url": "data:;base64," + "A" * 999}},
                        ],
                    }
                ]
            },
            5,
            1,
        ),
    ],
)
def test_a_prompt_is_measured_without_its_images(
    path: str, fields: dict[str, object], prompt_bytes: int, images: int
) -> None:
    prompt = parse(path, **fields).prompt

    assert (prompt.prompt_bytes, prompt.images) == (prompt_bytes, images)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/generate", {"prompt": ["a"]}),
        ("/api/generate", {"system": 1}),
        ("/v1/completions", {"prompt": ["a", "b"]}),
        ("/api/chat", {"messages": "hello"}),
        ("/api/chat", {"messages": ["hello"]}),
        ("/api/embed", {"input": [1, 2]}),
        ("/v1/embeddings", {"input": {"a": "b"}}),
    ],
)
def test_a_prompt_of_another_type_is_refused(path: str, fields: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        parse(path, **fields)
