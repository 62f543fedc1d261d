"""The boundary: what is answered without a backend, refused before one is asked, and shown to operators.

Tests that carry a case number follow the conformance list of the contract.
"""

import asyncio
import json
from typing import Any

import httpx
import pytest

from app.gateway.routes import MANAGEMENT_PATHS, OPENAI_MANAGEMENT_PATHS
from tests.support.asking import (
    ANTHROPIC_WHOLE,
    MESSAGES,
    MODEL,
    NATIVE_STREAM,
    NATIVE_WHOLE,
    OPENAI_WHOLE,
    RESPONSES_STREAM,
    SHAPES,
    Shape,
    ask,
    is_refusal,
    words_of,
)
from tests.support.fleet import LONER, Fleet
from tests.support.gateway import Gateway, Key
from tests.support.leaving_client import leaving_client

HOPS = [
    "//api/pull",
    "/api/x/../pull",
    "/api/./tags",
    "/api/pull/",
    "/API/PULL",
    "/api%2Fpull",
    "/api/tags/",
    "//api/tags",
    "/%61pi/tags",
    "/api/tags%00",
    "/api/tags;x=1",
    "/v1//models",
    "/v1/models/../../api/pull",
    "/metrics/",
    "/metrics%2f",
    "//metrics",
]
WITHOUT_MODEL: list[dict[str, Any]] = [{}, {"model": None}, {"model": 7}, {"model": ["llama3.2"]}]


async def untouched(fleet: Fleet) -> bool:
    """Tell whether no backend saw anything of a tenant."""
    return await fleet.attempts() == ""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_case_01_the_sign_of_life_needs_no_key(fleet: Fleet, gateway: Gateway, method: str) -> None:
    async with gateway.client() as stranger:
        reply = await stranger.request(method, "/")

    assert (reply.status_code, reply.text) == (200, "Ollama is running" if method == "GET" else "")
    assert await untouched(fleet)


async def test_case_02_the_version_is_the_lowest_in_dotted_integers(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    await fleet.b.change(version="0.30.7-rc1")
    await fleet.rest()

    assert (await client.get("/api/version")).json() == {"version": "0.30.7"}


BAD_KEYS = {
    "none": {},
    "malformed": {"Authorization": "Bearer nonsense"},
    "unknown": {"Authorization": "Bearer nng_00000000_000000000000000000000000000000_000000"},
    "another scheme": {"Authorization": "Digest x"},
    "empty": {"Authorization": "Bearer"},
    "in the wrong header": {"api-key": "x"},
}


@pytest.mark.parametrize("headers", BAD_KEYS.values(), ids=BAD_KEYS)
@pytest.mark.parametrize("shape", [NATIVE_STREAM, OPENAI_WHOLE, RESPONSES_STREAM, ANTHROPIC_WHOLE], ids=str)
async def test_case_03_every_bad_key_gets_the_same_refusal(
    fleet: Fleet, gateway: Gateway, shape: Shape, headers: dict[str, str]
) -> None:
    revoked = await gateway.tenant()
    await gateway.revoke(revoked)
    async with gateway.client(revoked) as other, gateway.client() as stranger:
        expected = await ask(other, shape)
        reply = await stranger.post(shape.path, json=shape.body(), headers=headers)

    assert (reply.status_code, is_refusal(shape, reply)) == (401, True)
    assert words_of(reply) == words_of(expected)
    assert await untouched(fleet)


async def test_a_key_of_the_other_plane_is_no_key(gateway: Gateway) -> None:
    async with gateway.client() as stranger:
        headers = {"Authorization": f"Bearer {await gateway.admin_key()}"}
        reply = await stranger.post("/api/chat", json=NATIVE_WHOLE.body(), headers=headers)

    assert reply.status_code == 401


async def test_case_05_one_key_in_either_header_or_in_both(gateway: Gateway, everything: Key) -> None:
    bearer, x_api_key = {"Authorization": f"bearer {everything.text}"}, {"x-api-key": everything.text}
    async with gateway.client() as client:
        replies = [
            await client.get("/api/tags", headers=how) for how in (bearer, x_api_key, bearer | x_api_key)
        ]

    assert [reply.status_code for reply in replies] == [200, 200, 200]


async def test_case_05_two_different_keys_are_none(gateway: Gateway, everything: Key) -> None:
    other = await gateway.tenant()
    async with gateway.client(everything) as client:
        reply = await client.get("/api/tags", headers={"x-api-key": other.text})

    assert reply.status_code == 401


async def test_case_06_a_revoked_key_is_refused_on_its_open_connection(gateway: Gateway) -> None:
    key = await gateway.tenant()
    async with gateway.client(key) as client:
        assert (await client.get("/api/tags")).status_code == 200
        await gateway.revoke(key)

        async with asyncio.timeout(2):
            while (await client.get("/api/tags")).status_code != 401:
                pass


@pytest.mark.parametrize(
    "path", [*MANAGEMENT_PATHS, "/api/blobs/sha256:00", "/api/user/keys/x", *OPENAI_MANAGEMENT_PATHS]
)
async def test_case_07_ollama_s_management_is_the_generic_403(
    fleet: Fleet, client: httpx.AsyncClient, path: str
) -> None:
    forbidden = await ask(client, OPENAI_WHOLE if path.startswith("/v1") else NATIVE_WHOLE, "nobody-has-this")
    for method in ("POST", "DELETE", "GET", "PUT"):
        reply = await client.request(method, path, json={"model": MODEL})
        assert (reply.status_code, reply.content) == (403, forbidden.content), method

    assert await untouched(fleet)


@pytest.mark.parametrize("path", HOPS)
async def test_case_08_a_path_has_one_spelling(
    fleet: Fleet, gateway: Gateway, everything: Key, path: str
) -> None:
    async with leaving_client(gateway.url) as client:
        await client.send(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {everything.text}\r\n"
            "Content-Length: 2\r\n\r\n{}".encode()
        )
        status, headers = await client.head()

    assert status in {403, 404} if path.startswith("/v1/models/") else status == 404
    assert headers["content-type"].startswith("application/json")
    assert await untouched(fleet)


@pytest.mark.parametrize(("path", "error"), [("/api/nothing", str), ("/v1/nothing", dict), ("/x", str)])
async def test_case_09_an_unknown_path_is_a_404_in_json_without_a_key(
    gateway: Gateway, path: str, error: type
) -> None:
    async with gateway.client() as stranger:
        reply = await stranger.get(path)

    assert reply.status_code == 404
    assert isinstance(reply.json()["error"], error)


async def test_case_09_a_wrong_method_is_told_the_right_one(client: httpx.AsyncClient) -> None:
    reply = await client.get("/api/chat")

    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "model", ["solo:1b", "nobody-has-this", "llama3.2:7b", "", "a/b/c/d/e", "../x", "x" * 700]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_case_11_absent_and_forbidden_models_are_one_refusal(
    fleet: Fleet, gateway: Gateway, shape: Shape, model: str
) -> None:
    key = await gateway.tenant("llama3.2:latest", "granted-but-absent")
    async with gateway.client(key) as client:
        expected = await ask(client, shape, "granted-but-absent")
        reply = await ask(client, shape, model)

    assert (reply.status_code, words_of(reply)) == (403, words_of(expected))
    assert dict(reply.headers).keys() == dict(expected.headers).keys()
    assert is_refusal(shape, reply)
    assert await untouched(fleet)


@pytest.mark.parametrize("model", ["llama3.2:cloud", "llama3.2:20b-CLOUD", "llama3.2: cloud", "x:cloud"])
async def test_case_12_cloud_names_never_leave(fleet: Fleet, client: httpx.AsyncClient, model: str) -> None:
    assert (await ask(client, NATIVE_WHOLE, model)).status_code == 403
    assert await untouched(fleet)


async def is_a_400_and_goes_no_further(fleet: Fleet, client: httpx.AsyncClient, body: bytes) -> bool:
    """Send a body to the native chat and tell whether it was refused before any backend saw it."""
    reply = await client.post("/api/chat", content=body)
    return (reply.status_code, is_refusal(NATIVE_WHOLE, reply), await untouched(fleet)) == (400, True, True)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"llama3.2","Model":"solo:1b","messages":[]}',
        b'{"model":"llama3.2","model":"solo:1b","messages":[]}',
        b'{"model":"llama3.2","model":null,"messages":[]}',
        b'{"MODEL":"llama3.2","messages":[]}',
    ],
)
async def test_case_13_a_model_that_is_named_twice_or_in_another_case_is_a_400(
    fleet: Fleet, client: httpx.AsyncClient, body: bytes
) -> None:
    assert await is_a_400_and_goes_no_further(fleet, client, body)


@pytest.mark.parametrize("rest", [b'{"model":"solo:1b"}', b' {"model":"solo:1b"}', b"x", b"]", b"\x00"])
async def test_case_14_what_follows_a_body_is_a_400(
    fleet: Fleet, client: httpx.AsyncClient, rest: bytes
) -> None:
    body = b'{"model":"llama3.2","messages":[]}' + rest

    assert await is_a_400_and_goes_no_further(fleet, client, body)


async def test_case_15_a_kelvin_sign_unloads_nothing(fleet: Fleet, client: httpx.AsyncClient) -> None:
    body = '{"model":"llama3.2","messages":[],"\u212aeep_alive":0}'.encode()

    assert await is_a_400_and_goes_no_further(fleet, client, body)


BAD_BODIES = {
    "long s": '{"model":"llama3.2","messages":[],"\u017ftream":false}'.encode(),
    "options twice": b'{"model":"llama3.2","messages":[],"options":{"num_ctx":1},"Options":{"num_predict":9}}',
    "options in another case": b'{"model":"llama3.2","messages":[],"options":{"num_predict":1,"NUM_PREDICT":9}}',
    "empty": b"",
    "no object": b"[]",
    "cut off": b'{"model":"llama3.2"',
    "bad UTF-8": b'{"model":"llama3.2\xff","messages":[]}',
    "too deep": b'{"model":"llama3.2","messages":' + b"[" * 70 + b"]" * 70 + b"}",
    "very deep": b'{"model":"llama3.2","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "NaN": b'{"model":"llama3.2","messages":[],"options":{"temperature":NaN}}',
    "huge number": b'{"model":"llama3.2","messages":[],"options":{"temperature":1e999}}',
    "case 24, keep_alive without a unit": b'{"model":"llama3.2","messages":[{}],"keep_alive":"300"}',
    "case 24, keep_alive true": b'{"model":"llama3.2","messages":[{}],"keep_alive":true}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_body_that_can_be_read_in_two_ways_is_a_400(
    fleet: Fleet, client: httpx.AsyncClient, body: bytes
) -> None:
    assert await is_a_400_and_goes_no_further(fleet, client, body)


@pytest.mark.parametrize("fields", WITHOUT_MODEL, ids=str)
async def test_a_body_without_a_model_is_a_400(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    assert (await client.post("/api/chat", json={"messages": MESSAGES, **fields})).status_code == 400


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "x"])
async def test_case_16_the_content_type_does_not_matter(client: httpx.AsyncClient, content_type: str) -> None:
    body = json.dumps(NATIVE_WHOLE.body(LONER)).encode()

    reply = await client.post("/api/chat", content=body, headers={"content-type": content_type})

    assert reply.status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "zstd, zstd"])
async def test_case_17_a_compressed_body_is_a_415(
    fleet: Fleet, client: httpx.AsyncClient, encoding: str
) -> None:
    reply = await client.post(
        "/v1/chat/completions", content=b"\x1f\x8b", headers={"content-encoding": encoding}
    )

    assert (reply.status_code, is_refusal(OPENAI_WHOLE, reply)) == (415, True)
    assert await untouched(fleet)


async def test_case_18_no_model_in_a_query_reaches_a_transcriber(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    reply = await client.post(
        "/v1/audio/transcriptions",
        params={"model": "solo:1b"},
        data={"model": MODEL},
        files={"file": ("a.wav", b"RIFF", "audio/wav")},
    )

    assert (reply.status_code, is_refusal(OPENAI_WHOLE, reply)) == (403, True)
    assert await untouched(fleet)


async def test_case_40_a_body_over_the_limit_is_a_413_before_it_is_read(
    fleet: Fleet, gateway: Gateway, everything: Key
) -> None:
    async with leaving_client(gateway.url) as client:
        await client.send(
            f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {everything.text}\r\n"
            "Content-Length: 99999999\r\n\r\n".encode()
        )
        status, _ = await client.head()

    assert status == 413
    assert await untouched(fleet)


async def test_case_40_a_chunked_body_over_the_limit_is_a_413(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    async def pieces() -> Any:
        for _ in range(80):
            yield b" " * 65_536

    reply = await client.post("/api/chat", content=pieces())

    assert reply.status_code == 413
    assert await untouched(fleet)


async def test_a_body_that_never_arrives_is_a_408(gateway: Gateway, everything: Key) -> None:
    async with leaving_client(gateway.url) as client:
        await client.send(
            f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {everything.text}\r\n"
            'Content-Length: 100\r\n\r\n{"model":'.encode()
        )
        status, _ = await client.head()

    assert status == 408
