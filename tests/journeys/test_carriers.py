"""Where a key may stand, and who may ask from a browser. What a path held is remembered nowhere.

Tests that carry a case number follow the conformance list of the contract.
"""

import asyncio
from base64 import b64encode

import httpx
import pytest
from ollama import AsyncClient
from sqlalchemy import text

from app.gateway.routes import MANAGEMENT_PATHS, OPENAI_MANAGEMENT_PATHS
from tests.journeys.conftest import ORIGIN
from tests.support.asking import MESSAGES, MODEL, NATIVE_STREAM, NATIVE_WHOLE, OPENAI_WHOLE, ask, is_refusal
from tests.support.fleet import LONER, TOKENS_PER_ANSWER, Fleet
from tests.support.gateway import Gateway, Key
from tests.support.leaving_client import leaving_client

TENANT_PATHS = (
    "/",
    "/api/tags",
    "/api/version",
    "/api/ps",
    "/api/status",
    "/v1/models",
    f"/v1/models/{MODEL}",
    "/me",
)
OWN_HEADERS = {"authorization", "x-api-key", "cookie", "origin", "referer", "forwarded", "x-forwarded-for"}


@pytest.fixture(scope="module")
async def path_key(running: Gateway, everything: Key) -> Key:
    return await running.another_key(everything, path_allowed=True)


def below(key: Key | str) -> str:
    return f"/k/{key.text if isinstance(key, Key) else key}"


def basic(password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(f'anybody:{password}'.encode()).decode()}"}


# keys


async def test_case_05_a_key_in_every_carrier_is_the_same_key(
    fleet: Fleet, gateway: Gateway, path_key: Key
) -> None:
    bearer, x_api_key = path_key.headers, {"x-api-key": path_key.text}
    ways: list[tuple[str, dict[str, str]]] = [
        ("", bearer),
        ("", x_api_key),
        ("", basic(path_key.text)),
        (below(path_key), {}),
        (below(path_key), bearer | x_api_key),
    ]
    noise = {"Cookie": "a=b", "Origin": ORIGIN, "Referer": "https://x.example", "Forwarded": "for=1.2.3.4"}
    async with gateway.client() as client:
        replies = [
            await client.post(f"{prefix}/api/chat", json=NATIVE_WHOLE.body(LONER), headers={**noise, **how})
            for prefix, how in ways
        ]

    assert [reply.status_code for reply in replies] == [200] * len(ways)
    seen = await fleet.c.requests()
    assert {request.path for request in seen} == {"/api/chat"}
    for request in seen:
        names = {name.lower() for name, _ in request.headers}
        assert not names & OWN_HEADERS
        assert request.header("host") == fleet.c.url.removeprefix("http://")
        assert path_key.text not in str(request)


@pytest.mark.parametrize("carrier", ["bearer", "x-api-key", "basic"])
async def test_case_05_a_path_and_a_header_that_differ_are_no_key(
    gateway: Gateway, everything: Key, path_key: Key, carrier: str
) -> None:
    headers = {
        "bearer": everything.headers,
        "x-api-key": {"x-api-key": everything.text},
        "basic": basic(everything.text),
    }[carrier]
    async with gateway.client() as client:
        reply = await client.get(f"{below(path_key)}/api/tags", headers=headers)

    assert (reply.status_code, is_refusal(NATIVE_WHOLE, reply)) == (401, True)


@pytest.mark.parametrize("path", TENANT_PATHS)
async def test_every_route_is_behind_a_key_in_the_path_as_it_is_without(
    gateway: Gateway, client: httpx.AsyncClient, path_key: Key, path: str
) -> None:
    async with gateway.client() as keyless:
        reply = await keyless.get(f"{below(path_key)}{path}")
    expected = await client.get(path)

    assert (reply.status_code, reply.headers["content-type"]) == (200, expected.headers["content-type"])
    if path != "/me":
        assert reply.content == expected.content


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_case_01_the_sign_of_life_is_there_behind_a_key(
    fleet: Fleet, gateway: Gateway, path_key: Key, method: str
) -> None:
    async with gateway.client() as keyless:
        reply = await keyless.request(method, f"{below(path_key)}/")

    assert (reply.status_code, reply.text) == (200, "Ollama is running" if method == "GET" else "")
    assert await fleet.attempts() == ""


async def test_a_stream_comes_through_a_path(fleet: Fleet, gateway: Gateway, path_key: Key) -> None:
    async with gateway.client() as keyless:
        reply = await keyless.post(f"{below(path_key)}/api/chat", json=NATIVE_STREAM.body(LONER))

    assert reply.content.count(b"\n") == TOKENS_PER_ANSWER + 1
    row = await fleet.row(reply)
    assert (row.key_id, row.route, row.outcome) == (path_key.key_id, "/api/chat", "completed")


async def test_the_official_client_works_with_a_path_alone(gateway: Gateway, path_key: Key) -> None:
    async with AsyncClient(host=f"{gateway.url}{below(path_key)}", trust_env=False) as client:
        listed = await client.list()
        answer = await client.chat(MODEL, messages=MESSAGES)

    assert listed.models
    assert answer.message.content


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_key_that_may_not_stand_in_a_path_is_refused_like_one_that_is_none(
    gateway: Gateway, everything: Key, path: str
) -> None:
    async with gateway.client() as client, gateway.client(everything) as both:
        body = NATIVE_WHOLE.body()
        replies = [
            await client.post(f"{below(everything)}{path}", json=body),
            await both.post(f"{below(everything)}{path}", json=body),
            await client.post(f"{below('nonsense')}{path}", json=body),
        ]
        expected = await client.post(path, json=body)

    assert [reply.status_code for reply in replies] == [401] * 3
    assert {reply.content for reply in replies} == {expected.content}


async def test_a_stream_is_cut_when_its_key_may_not_stand_in_a_path_any_more(
    fleet: Fleet, gateway: Gateway, everything: Key
) -> None:
    key = await gateway.another_key(everything, path_allowed=True)
    await fleet.c.change(token_interval_ms=200, tokens=200)
    async with leaving_client(gateway.url) as client:
        body = b'{"model":"loner:1b","messages":[{"role":"user","content":"x"}]}'
        head = f"POST {below(key)}/api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        await client.send(head.encode() + body)
        assert (await client.head())[0] == 200
        await client.records(2)
        async with gateway.database.engine.begin() as connection:
            withdraw = text("UPDATE api_keys SET path_allowed = false WHERE id = :id")
            await connection.execute(withdraw, {"id": key.key_id})
        async with asyncio.timeout(5):
            rest, ended = await client.stream()

    assert ended
    assert b'"error":"the key is no longer valid"' in rest


# paths


@pytest.mark.parametrize("path", [*MANAGEMENT_PATHS, *OPENAI_MANAGEMENT_PATHS])
async def test_case_07_management_is_the_generic_403_behind_a_key_too(
    fleet: Fleet, gateway: Gateway, client: httpx.AsyncClient, path_key: Key, path: str
) -> None:
    shape = OPENAI_WHOLE if path.startswith("/v1") else NATIVE_WHOLE
    forbidden = await ask(client, shape, "nobody-has-this")
    async with gateway.client() as keyless:
        reply = await keyless.post(f"{below(path_key)}{path}", json={"model": MODEL})

    assert (reply.status_code, reply.content) == (403, forbidden.content)
    assert await fleet.attempts() == ""


@pytest.mark.parametrize(
    "path",
    [
        "//api/pull",
        "/api/x/../pull",
        "/api/pull/",
        "/API/PULL",
        "/api%2Fpull",
        "/./api/tags",
        "/metrics",
        "/healthz",
    ],
)
async def test_case_08_what_follows_a_key_has_one_spelling(
    fleet: Fleet, gateway: Gateway, path_key: Key, path: str
) -> None:
    async with leaving_client(gateway.url) as client:
        await client.send(
            f"POST {below(path_key)}{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        )
        status, headers = await client.head()

    assert (status, headers["content-type"].startswith("application/json")) == (404, True)
    assert await fleet.attempts() == ""


async def test_case_09_an_unknown_path_and_a_wrong_method_behind_a_key(
    gateway: Gateway, path_key: Key
) -> None:
    async with gateway.client() as keyless:
        absent = await keyless.get(f"{below(path_key)}/v1/nothing")
        wrong = await keyless.get(f"{below(path_key)}/api/chat")

    assert (absent.status_code, isinstance(absent.json()["error"], dict)) == (404, True)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


async def test_a_key_in_a_path_is_remembered_nowhere(gateway: Gateway, path_key: Key) -> None:
    canary = "nng_canary00_canarycanarycanarycanarycanary_000000"
    paths = (
        "/api/tags",
        "/v1/models/x%2Fy",
        "/api/chat",
        "/api/pull",
        "/nothing",
        "//x",
        "/",
        "",
        "/api/tags%00",
    )
    traced = {"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}
    told = []
    async with gateway.client() as client:
        for key in (canary, path_key.text):
            for path in paths:
                for method in ("GET", "POST", "OPTIONS"):
                    reply = await client.request(method, f"{below(key)}{path}", content=b"{", headers=traced)
                    told.append(f"{reply.headers}{reply.text}")

    remembered = gateway.app.log() + gateway.worker.log() + str(await gateway.metrics()) + "".join(told)
    assert canary.split("_")[2] not in remembered
    assert path_key.text.split("_")[2] not in remembered


# browsers

PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/api/pull", "/nothing"])
async def test_a_page_of_a_named_origin_may_ask_without_a_key(
    fleet: Fleet, gateway: Gateway, path_key: Key, path: str
) -> None:
    async with gateway.client() as browser:
        replies = [
            await browser.options(prefix + path, headers=PREFLIGHT)
            for prefix in (("", below(path_key)) if path != "/nothing" else (below(path_key),))
        ]

    for reply in replies:
        assert (reply.status_code, reply.content) == (204, b"")
        assert reply.headers["access-control-allow-origin"] == ORIGIN
        assert "authorization" in reply.headers["access-control-allow-headers"]
    assert await fleet.attempts() == ""


async def test_a_page_may_read_answers_streams_and_refusals(gateway: Gateway, everything: Key) -> None:
    async with gateway.client(everything) as browser:
        browser.headers["Origin"] = ORIGIN
        replies = [
            await browser.get("/api/tags"),
            await ask(browser, NATIVE_STREAM),
            await ask(browser, OPENAI_WHOLE, "nobody-has-this"),
            await browser.get("/api/chat"),
            await browser.get("/api/nothing"),
        ]

    assert [reply.status_code for reply in replies] == [200, 200, 403, 405, 404]
    for reply in replies:
        assert reply.headers["access-control-allow-origin"] == ORIGIN
        assert reply.headers["vary"] == "Origin"


async def test_a_foreign_page_may_read_nothing(gateway: Gateway, everything: Key) -> None:
    async with gateway.client(everything) as browser:
        asked = await browser.options("/api/chat", headers=PREFLIGHT | {"Origin": "https://evil.example"})
        answered = await browser.get("/api/tags", headers={"Origin": "https://evil.example"})

    assert (asked.status_code, answered.status_code) == (405, 200)
    for reply in (asked, answered):
        assert not [name for name in reply.headers if name.startswith("access-control-")]
        assert reply.headers["vary"] == "Origin"
