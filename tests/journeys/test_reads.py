"""What clients ask before they chat: what a model is, what is in memory, what is left to them.

Tests that carry a case number follow the conformance list of the contract.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from ollama import AsyncClient

from app.simulator.reads import OPERATORS_WORDS
from domain.limits import LimitKind
from domain.tenants import Actor
from tests.support.asking import NATIVE_WHOLE, OPENAI_WHOLE, ask, is_refusal
from tests.support.fleet import COMMON, DESCRIBED, DUO, EMBEDDER, LONER, SOLO, TOKEN, Fleet, started_fleet
from tests.support.gateway import Gateway, Key
from tests.support.homes import Home

LISTS = ("/api/tags", "/api/ps", "/v1/models")
CANARIES = (OPERATORS_WORDS, "/usr/share", "blobs", "ollama.com", "127.0.0.1", "canary", "remote", TOKEN)
OLD, NEW = ("1" * 64, "2025-01-01T00:00:00Z"), ("2" * 64, "2026-06-01T00:00:00Z")


def embedder(digest: str, modified_at: str) -> dict[str, object]:
    return {"name": EMBEDDER, "digest": digest, "modified_at": modified_at}


HOSTED: dict[str, list[str | dict[str, object]]] = {
    "a": [COMMON, DUO, SOLO, "big:120b-cloud", "shown-by-b", embedder(*OLD)],
    "b": [COMMON, DUO, "other:cloud", "shown-by-b", embedder(*NEW)],
    "c": [
        *(COMMON, LONER, "asked-once", "ns/m:1", "big:120b-cloud", embedder(*OLD)),
        {"name": "stub", "remote_host": "https://ollama.com:443", "remote_model": "canary-model"},
    ],
}
"""Of these backends, c alone may use the cloud."""


@pytest.fixture(scope="module")
async def instance(home: Home) -> AsyncIterator[Gateway]:
    backends = started_fleet()
    for backend in backends:
        await backend.host(*HOSTED[backend.name])
    async with home.running(*backends, described=DESCRIBED) as gateway:
        yield gateway


@pytest.fixture(scope="module")
async def everything(instance: Gateway) -> Key:
    return await instance.tenant()


@pytest.fixture
async def gateway(instance: Gateway) -> Gateway:
    """Give the gateway without faults and with empty logs; what is hosted stays."""
    for backend in instance.backends.values():
        await backend.withdraw()
        await backend.clear()
    return instance


async def show(client: httpx.AsyncClient, model: str, **fields: Any) -> httpx.Response:
    return await client.post("/api/show", json={"model": model, **fields})


async def in_memory(client: httpx.AsyncClient, names: set[str]) -> list[dict[str, Any]]:
    """Return what `/api/ps` says once it names these."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while not names <= {model["name"] for model in found}:
            found = (await client.get("/api/ps")).json()["models"]
            await asyncio.sleep(0.02)
    assert len(found) == len({model["name"] for model in found})
    return found


# show


@pytest.mark.parametrize("field", ["model", "name"])
async def test_case_22_a_model_is_shown_without_what_its_operator_wrote(
    client: httpx.AsyncClient, field: str
) -> None:
    reply = await client.post("/api/show", json={field: "LLAMA3.2", "verbose": True})
    shown = reply.json()

    assert reply.status_code == 200
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 8192
    assert shown["model_info"]["general.basename"] == "LLAMA3.2"
    assert shown["details"]["parameter_size"] == "3.2B"
    assert "temperature" in shown["parameters"]
    assert {"system", "messages", "tensors", "projector_info"}.isdisjoint(shown)
    assert "tokenizer" not in reply.text
    assert not [canary for canary in CANARIES if canary in reply.text]


async def test_an_empty_model_gives_way_to_the_older_name(client: httpx.AsyncClient) -> None:
    assert (await show(client, "", name=COMMON)).status_code == 200
    assert (await show(client, COMMON, name="nobody-has-this")).status_code == 200


@pytest.mark.parametrize("model", [SOLO, "nobody-has-this", f"{COMMON}:cloud", "../x", "a/b/c/d", "x" * 700])
async def test_a_forbidden_and_an_absent_model_are_shown_alike(
    fleet: Fleet, gateway: Gateway, model: str
) -> None:
    key = await gateway.tenant(f"{COMMON}:latest")
    async with gateway.client(key) as client:
        expected = await ask(client, NATIVE_WHOLE, "nobody-has-this")
        reply = await show(client, model)

    assert (reply.status_code, reply.content) == (403, expected.content)
    stats = [await backend.stats() for backend in (fleet.a, fleet.b, fleet.c)]
    assert not any("/api/show" in each.requests for each in stats)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"model":7}', b'{"model":"a","Model":"b"}', b'{"name":null}', b'{"model":"a"}x'],
)
async def test_a_question_that_names_no_model_is_a_400(client: httpx.AsyncClient, body: bytes) -> None:
    reply = await client.post("/api/show", content=body)

    assert (reply.status_code, is_refusal(NATIVE_WHOLE, reply)) == (400, True)


async def test_case_16_a_question_may_come_as_any_content_type(client: httpx.AsyncClient) -> None:
    reply = await client.post("/api/show", content=b'{"name":"llama3.2"}', headers={"content-type": "text/x"})

    assert reply.status_code == 200


async def test_a_backend_is_asked_once_whoever_asks(fleet: Fleet, client: httpx.AsyncClient) -> None:
    await asyncio.gather(*(show(client, "asked-once") for _ in range(20)))

    assert (await fleet.c.stats()).requests["/api/show"] == 1


async def test_the_next_backend_is_asked_if_the_first_says_nothing_good(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    await fleet.a.order("status", status=500, body=OPERATORS_WORDS, path="/api/show")

    reply = await show(client, "shown-by-b")

    assert reply.status_code == 200
    assert OPERATORS_WORDS not in reply.text


async def test_what_is_shown_leaves_no_usage_and_takes_nothing_from_a_limit(
    gateway: Gateway, client: httpx.AsyncClient, everything: Key
) -> None:
    before = len(await gateway.rows_of(everything))
    key = await limited(gateway, requests_per_minute=1)
    async with gateway.client(key) as mine:
        statuses = [(await show(mine, COMMON)).status_code for _ in range(3)]
    await show(client, COMMON)

    assert statuses == [200, 200, 200]
    assert len(await gateway.rows_of(everything)) == before
    assert await gateway.rows_of(key) == []


async def test_the_official_client_reads_what_is_shown(gateway: Gateway, everything: Key) -> None:
    async with AsyncClient(host=gateway.url, headers=everything.headers) as client:
        shown = await client.show(COMMON)
        loaded = await client.ps()

    assert shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo is not None
    assert loaded.models is not None


# ps


async def test_case_20_what_is_in_memory_is_told_to_those_who_may_use_it(
    fleet: Fleet, gateway: Gateway, client: httpx.AsyncClient
) -> None:
    for model in (DUO, LONER):
        await ask(client, NATIVE_WHOLE, model)
    await fleet.a.order("busy")
    await ask(client, NATIVE_WHOLE, DUO)

    listed = await in_memory(client, {DUO, LONER})
    key = await gateway.tenant("loner:*")
    async with gateway.client(key) as narrow:
        mine = await in_memory(narrow, {LONER})

    assert [model["name"] for model in mine] == [LONER]
    for each in listed:
        assert set(each) == {
            *("name", "model", "size", "digest", "details", "expires_at", "size_vram", "context_length")
        }
        assert datetime.fromisoformat(each["expires_at"]) > datetime.now(UTC)


async def test_case_20_nothing_in_memory_is_an_empty_list(gateway: Gateway) -> None:
    key = await gateway.tenant("nothing-like-it")
    async with gateway.client(key) as client:
        reply = await client.get("/api/ps")

    assert (reply.status_code, reply.content) == (200, b'{"models":[]}')


async def test_no_list_tells_of_a_host(client: httpx.AsyncClient) -> None:
    await ask(client, NATIVE_WHOLE, COMMON)
    replies = [await client.get(path) for path in LISTS]

    for reply in replies:
        assert not [canary for canary in CANARIES if canary in reply.text]


# one model of the list


@pytest.mark.parametrize("path", ["ns/m:1", "ns%2Fm:1", "ns%2fm%3A1", "ns/m%3a1", "NS/M:1"])
@pytest.mark.parametrize(("grant", "status"), [("ns/*", 200), ("m:1", 403)])
async def test_case_19_a_namespaced_model_in_every_spelling(
    gateway: Gateway, path: str, grant: str, status: int
) -> None:
    key = await gateway.tenant(grant)
    async with gateway.client(key) as client:
        reply = await client.get(f"/v1/models/{path}")

    assert reply.status_code == status
    if status == 200:
        asked = path.replace("%2F", "/").replace("%2f", "/").replace("%3A", ":").replace("%3a", ":")
        assert (reply.json()["id"], reply.json()["owned_by"]) == (asked, "ns")
    else:
        assert is_refusal(OPENAI_WHOLE, reply)


# digests


async def test_case_21_embeddings_stay_on_the_digest_of_the_first_backend(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    listed = [m for m in (await client.get("/api/tags")).json()["models"] if m["name"].startswith(EMBEDDER)]
    body = {"model": EMBEDDER, "input": "x"}
    first = await client.post("/api/embed", json=body)
    await fleet.a.order("busy")
    second = await client.post("/v1/embeddings", json=body)
    await fleet.a.order("busy")
    await fleet.c.order("busy")
    third = await client.post("/api/embed", json=body)

    assert [(model["digest"], model["modified_at"]) for model in listed] == [NEW]
    assert [reply.status_code for reply in (first, second, third)] == [200, 200, 503]
    assert await fleet.attempts() == "aaacc"


# the cloud


async def test_a_cloud_model_is_used_only_where_its_backend_may(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    listed = {model["name"] for model in (await client.get("/api/tags")).json()["models"]}
    allowed = await ask(client, NATIVE_WHOLE, "big:120b-CLOUD")
    refused = [
        await ask(client, NATIVE_WHOLE, name) for name in ("other:cloud", "big:cloud", "loner:1b-cloud")
    ]

    assert {name for name in listed if "cloud" in name} == {"big:120b-cloud"}
    assert (allowed.status_code, allowed.json()["model"]) == (200, "big:120b-CLOUD")
    assert [reply.status_code for reply in refused] == [403, 403, 403]
    assert await fleet.attempts() == "c"


# what is answered on the spot


async def test_what_a_client_asks_of_the_cloud_is_answered_with_nothing(
    fleet: Fleet, client: httpx.AsyncClient
) -> None:
    status = await client.get("/api/status")
    recommended = await client.get("/api/experimental/model-recommendations")

    assert status.json()["cloud"]["disabled"] is True
    assert recommended.json() == {"recommendations": []}
    assert await fleet.attempts() == ""


READS = {
    "/api/ps": "GET",
    "/api/show": "POST",
    "/api/status": "GET",
    "/api/experimental/model-recommendations": "GET",
    "/me": "GET",
}


@pytest.mark.parametrize(("path", "method"), READS.items())
async def test_only_the_sign_of_life_is_for_everybody(gateway: Gateway, path: str, method: str) -> None:
    async with gateway.client() as stranger:
        reply = await stranger.request(method, path, json={"model": COMMON})

    assert (reply.status_code, is_refusal(NATIVE_WHOLE, reply)) == (401, True)


@pytest.mark.parametrize(("path", "method"), READS.items())
async def test_case_09_a_read_with_another_method_is_told_the_right_one(
    client: httpx.AsyncClient, path: str, method: str
) -> None:
    reply = await client.request("DELETE", path)

    assert (reply.status_code, reply.headers["allow"]) == (405, method)


# me


async def limited(gateway: Gateway, **limits: int) -> Key:
    key = await gateway.tenant(f"{COMMON}:latest", "granted-but-absent")
    async with gateway.database.unit_of_work(Actor("test")) as work:
        await work.limits(key.tenant_id).set({LimitKind(kind): value for kind, value in limits.items()})
    return key


async def told(client: httpx.AsyncClient, condition: Callable[[list[Any]], bool]) -> dict[str, Any]:
    """Return what `/me` says once its limits fulfil the condition."""
    async with asyncio.timeout(5):
        while True:
            found: dict[str, Any] = (await client.get("/me")).json()
            if condition(found["limits"]):
                return found
            await asyncio.sleep(0.02)


async def test_a_caller_is_told_who_it_is_and_what_is_left(gateway: Gateway) -> None:
    key = await limited(gateway, requests_per_minute=1, tokens_per_day=1_000_000, concurrency=3)
    async with gateway.client(key) as client:
        before = (await client.get("/me")).json()
        reply = await ask(client, NATIVE_WHOLE, COMMON, options={"num_predict": 20})
        row = await gateway.row(reply)
        after = await told(client, lambda limits: limits[2]["reserved"] == 0)

    assert (after["tenant"], after["key"]) == (key.tenant, key.text[:12])
    assert (after["expires_at"], after["time_zone"], after["models"]) == (None, "UTC", [f"{COMMON}:latest"])
    assert [(each["kind"], each["scope"], each["limit"]) for each in after["limits"]] == [
        ("requests_per_minute", "tenant", 1),
        ("concurrency", "tenant", 3),
        ("tokens_per_day", "tenant", 1_000_000),
    ]
    # Nobody has counted anything before the first request.
    assert {each["used"] for each in before["limits"]} == {None}
    requests, running, tokens = after["limits"]
    assert (requests["used"], running["used"]) == (1, 0)
    assert tokens["used"] == row.tokens_in + row.tokens_out
    assert tokens["remaining"] == 1_000_000 - tokens["used"]
    assert datetime.fromisoformat(tokens["resets_at"]).time() == datetime.min.time()
    assert key.text not in str(after)


async def test_what_runs_is_reserved_and_asking_takes_nothing(fleet: Fleet, gateway: Gateway) -> None:
    key = await limited(gateway, requests_per_minute=1, tokens_per_day=1_000_000)
    async with gateway.client(key) as client:
        for backend in (fleet.a, fleet.b, fleet.c):
            await backend.order("hang", after=1, model=COMMON)
        running = asyncio.create_task(ask(client, NATIVE_WHOLE, COMMON, options={"num_predict": 500}))
        first = (await told(client, lambda limits: bool(limits[1]["reserved"])))["limits"]
        again = (await client.get("/me")).json()["limits"]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert first[1]["reserved"] >= 500
    assert (first[0]["used"], again[0]["used"]) == (1, 1)
    assert first[1]["reserved"] == again[1]["reserved"]


async def test_a_caller_without_limits_has_none(client: httpx.AsyncClient) -> None:
    assert (await client.get("/me")).json()["limits"] == []
