"""Embedding routes."""

import base64
import math
import struct

import httpx
import pytest

NAME = "nomic-embed-text"


async def test_embed_returns_unit_vectors_and_the_sum_of_tokens(api: httpx.AsyncClient) -> None:
    answer = (await api.post("/api/embed", json={"model": NAME, "input": ["x" * 8, "y" * 16]})).json()

    assert list(answer) == ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
    assert (len(answer["embeddings"]), answer["prompt_eval_count"]) == (2, 6)
    assert all(math.isclose(1, math.hypot(*vector), rel_tol=1e-5) for vector in answer["embeddings"])


async def test_vectors_depend_on_the_text_alone(api: httpx.AsyncClient) -> None:
    one, other = [
        (await api.post("/api/embed", json={"model": NAME, "input": text})).json()["embeddings"][0]
        for text in (["same", "other"], "same")
    ]

    assert one == other


async def test_dimensions_cut_the_vector(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/embed", json={"model": NAME, "input": "x", "dimensions": 8})

    (vector,) = answer.json()["embeddings"]
    assert len(vector) == 8
    assert math.isclose(1, math.hypot(*vector), rel_tol=1e-5)


async def test_embed_of_nothing_only_loads(api: httpx.AsyncClient) -> None:
    answer = await api.post("/api/embed", json={"model": NAME})

    assert answer.text == '{"model":"nomic-embed-text","embeddings":[]}'


async def test_legacy_embedding_is_bare_and_not_normalised(api: httpx.AsyncClient) -> None:
    answer = (await api.post("/api/embeddings", json={"model": NAME, "prompt": "x"})).json()

    assert list(answer) == ["embedding"]
    assert not math.isclose(1, math.hypot(*answer["embedding"]), rel_tol=0.1)


async def test_base64_carries_the_same_floats(api: httpx.AsyncClient) -> None:
    plain, packed = [
        (
            await api.post("/v1/embeddings", json={"model": NAME, "input": "x", "encoding_format": encoding})
        ).json()
        for encoding in ("float", "base64")
    ]

    floats = struct.unpack("<64f", base64.b64decode(packed["data"][0]["embedding"]))
    assert floats == pytest.approx(plain["data"][0]["embedding"], rel=1e-6)
    assert plain["usage"] == {"prompt_tokens": 1, "total_tokens": 1}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/api/embed", {"model": "no", "input": "x"}, 404, 'model "no" not found, try pulling it first'),
        (
            "/api/embeddings",
            {"model": "no", "prompt": "x"},
            404,
            'model "no" not found, try pulling it first',
        ),
        ("/api/embed", {"model": NAME, "input": [1]}, 400, "invalid input type"),
    ],
)
async def test_refusals(
    api: httpx.AsyncClient, path: str, body: dict[str, object], status: int, message: str
) -> None:
    answer = await api.post(path, json=body)

    assert (status, {"error": message}) == (answer.status_code, answer.json())


@pytest.mark.parametrize("given", [[], None])
async def test_v1_refuses_empty_input(api: httpx.AsyncClient, given: object) -> None:
    answer = await api.post("/v1/embeddings", json={"model": NAME, "input": given})

    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "invalid input")
