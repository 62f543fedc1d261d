"""Nothing comes out where it does not belong: canaries everywhere, and every place looked through.

A backend talks about itself in every answer it gives; clients say what nobody else may read. Tenants see none of the
first, nobody keeps the second.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from tests.support.asking import ANTHROPIC, NATIVE, OPENAI, RESPONSES, SHAPES, STREAMS, Shape
from tests.support.canaries import Aviary, Kind, all_of_postgres, all_of_redis
from tests.support.chatty import ALONE, ANOTHERS, FAILING, SHARED, Chatty
from tests.support.gateway import METRICS_TOKEN, Key
from tests.support.homes import Home
from tests.support.ollama import SimulatedOllama
from tests.support.pictures import png
from tests.support.scripted_backend import ScriptedBackend, scripted_backend

LONGEST_LOG_LINE: Final = 4096
SCRIPTED_PATHS: Final = (
    *(NATIVE, "/api/generate", "/api/embed", "/api/embeddings", "/api/show"),
    *(OPENAI, "/v1/completions", "/v1/embeddings", RESPONSES, ANTHROPIC),
)


class Harvest(msgspec.Struct):
    """Everything that came out, by who can read it."""

    tenants: list[str] = []
    in_band: list[str] = []
    app_log: str = ""
    worker_log: str = ""
    metrics: str = ""
    redis: str = ""
    postgres: str = ""
    journal: str = ""

    def of_operators(self) -> dict[str, str]:
        """Return what operators can look at, by its name."""
        return {
            name: getattr(self, name)
            for name in ("app_log", "worker_log", "metrics", "redis", "postgres", "journal")
        }


def bodies(aviary: Aviary, model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a request to every route that asks a model, each full of what nobody else may read."""
    new = aviary.new
    for shape in SHAPES:
        yield shape.path, _chat(aviary, shape, model)
    yield "/api/generate", {"model": model, "prompt": new(Kind.PROMPT), "system": new(Kind.PROMPT)}
    yield "/api/generate", {"model": model, "prompt": new(Kind.PROMPT), "images": [png()], "stream": False}
    yield "/v1/completions", {"model": model, "prompt": new(Kind.PROMPT)}
    yield "/api/embed", {"model": model, "input": [new(Kind.PROMPT)]}
    yield "/api/embeddings", {"model": model, "prompt": new(Kind.PROMPT)}
    yield "/v1/embeddings", {"model": model, "input": new(Kind.PROMPT)}
    yield "/v1/messages/count_tokens", _chat(aviary, Shape(ANTHROPIC, stream=False), model)
    yield "/api/show", {"model": model, "system": new(Kind.PROMPT)}


def _chat(aviary: Aviary, shape: Shape, model: str) -> dict[str, Any]:
    said, called = aviary.new(Kind.PROMPT), {"city": aviary.new(Kind.PROMPT)}
    if shape.path == RESPONSES:
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": json.dumps(called)}
        return shape.body(model, input=[{"role": "user", "content": said}, call])
    if shape.path == ANTHROPIC:
        use = {"type": "tool_use", "id": "c", "name": "f", "input": called}
        return shape.body(
            model, messages=[{"role": "user", "content": said}, {"role": "assistant", "content": [use]}]
        )
    arguments: object = called if shape.native else json.dumps(called)
    tool_call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [
        {"role": "user", "content": said},
        {"role": "assistant", "content": "", "tool_calls": [tool_call]},
    ]
    return shape.body(model, messages=messages)


class Visitor:
    """A client that keeps every byte it gets."""

    def __init__(self, client: httpx.AsyncClient, aviary: Aviary, harvest: Harvest) -> None:
        self._client = client
        self._aviary = aviary
        self._harvest = harvest

    @property
    def last(self) -> str:
        """What came last."""
        return self._harvest.tenants[-1]

    async def ask(self, method: str, path: str, key: str | None = None, **how: Any) -> int:
        """Ask, and return the status; 0 if the connection broke."""
        new = self._aviary.new
        headers = {
            "user-agent": new(Kind.CLIENT),
            "cookie": new(Kind.CLIENT),
            "referer": new(Kind.CLIENT),
            **({"authorization": f"Bearer {key}"} if key else {}),
            **how.pop("headers", {}),
        }
        path = f"{path}?key={new(Kind.SECRET)}"
        got = bytearray()
        try:
            async with self._client.stream(method, path, headers=headers, **how) as reply:
                got += f"{reply.status_code} {reply.reason_phrase} {reply.headers}".encode()
                async for piece in reply.aiter_raw():
                    got += piece
                return reply.status_code
        except httpx.TransportError:
            return 0
        finally:
            self._harvest.tenants.append(got.decode(errors="replace"))


async def ask_everything(visitor: Visitor, aviary: Aviary, key: Key, script: ScriptedBackend) -> set[int]:
    """Go through all routes, for every way in which a backend fails, and return the statuses that came."""
    statuses = set()
    for said in Chatty(aviary).refusals():
        for path in SCRIPTED_PATHS:
            script.scripts[path] = said
        for number, shape in enumerate(SHAPES):
            body = _chat(aviary, shape, SHARED if number % 3 == 0 else ALONE)
            statuses.add(await visitor.ask("POST", shape.path, key.text, json=body))
    for model in (SHARED, ALONE, ANOTHERS, "absent:1b"):
        for path, body in bodies(aviary, model):
            statuses.add(await visitor.ask("POST", path, key.text, json=body))
    for path in (
        *("/", "/api/version", "/api/tags", "/api/ps", "/v1/models", f"/v1/models/{ALONE}", "/me"),
        *("/api/status", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/nothing"),
        *("/api/pull", "/admin/api/v1/me", "/admin/api/v1/tenants", "/admin/nothing"),
    ):
        statuses.add(await visitor.ask("GET", path, key.text))
    return statuses


async def ask_for_streams_that_fail(
    visitor: Visitor, aviary: Aviary, key: Key, script: ScriptedBackend
) -> list[str]:
    """Ask for a stream of each family that fails after its first output, in every way, and return what was told."""
    told = []
    for shape in STREAMS:
        for said in Chatty(aviary).failing_streams(shape):
            script.scripts[shape.path] = said
            await visitor.ask("POST", shape.path, key.text, json=_chat(aviary, shape, ALONE))
            told.append(visitor.last)
    return told


async def ask_wrongly(visitor: Visitor, aviary: Aviary, key: Key) -> None:
    """Make the mistakes that clients make, each with something that must not be repeated."""
    new = aviary.new
    prompt = {"model": SHARED, "messages": [{"role": "user", "content": new(Kind.PROMPT)}]}
    for path in (NATIVE, OPENAI, ANTHROPIC, "/api/tags", "/me", "/admin/api/v1/me", "/metrics"):
        wrong = (
            new(Kind.SECRET),
            f"nng_{new(Kind.SECRET)}_{new(Kind.SECRET)}",
            f"{key.text[:-1]}{new(Kind.SECRET)}",
        )
        for each in wrong:
            await visitor.ask("POST", path, each, json=prompt)
            await visitor.ask("GET", path, headers={"x-api-key": each})
            await visitor.ask("GET", path, headers={"authorization": f"Basic {each}"})
    for content in (
        b'{"model":"' + new(Kind.PROMPT).encode(),
        b'{"' + new(Kind.PROMPT).encode() + b'":1,"' + new(Kind.PROMPT).encode() + b'":NaN}',
        new(Kind.PROMPT).encode() + b"\xff",
        msgspec.json.encode({"model": SHARED, "messages": new(Kind.PROMPT)}),
        msgspec.json.encode({"model": SHARED, "messages": [new(Kind.PROMPT)]}),
        msgspec.json.encode({"model": SHARED, "messages": [], "keep_alive": new(Kind.PROMPT)}),
        msgspec.json.encode({"model": SHARED, "messages": [], "stream": new(Kind.PROMPT)}),
        msgspec.json.encode({"model": SHARED, "messages": [{"images": [new(Kind.PROMPT)]}]}),
        msgspec.json.encode({"model": new(Kind.PROMPT), "messages": []}),
    ):
        for path in (NATIVE, OPENAI, RESPONSES, ANTHROPIC):
            await visitor.ask("POST", path, key.text, content=content)
    await visitor.ask("POST", NATIVE, key.text, content=b"{}", headers={"content-encoding": new(Kind.CLIENT)})


@pytest.fixture(scope="module")
async def aviary() -> Aviary:
    return Aviary()


@pytest.fixture(scope="module")
async def harvest(aviary: Aviary, home: Home) -> AsyncIterator[Harvest]:
    """Run a gateway over a chatty backend and a good one, ask it everything, and collect what came out."""
    new = aviary.new
    harvest = Harvest(tenants=[])
    async with AsyncExitStack() as stack:
        script = await stack.enter_async_context(scripted_backend())
        script.scripts.update(Chatty(aviary).about_itself())
        good = SimulatedOllama.start(name="good", models=f"{SHARED}:latest")
        stack.push_async_callback(good.stop)
        specs = [
            {"name": new(Kind.TOPOLOGY), "base_url": script.url, "auth_token": new(Kind.SECRET)},
            {"name": new(Kind.TOPOLOGY), "base_url": good.url, "auth_token": new(Kind.SECRET)},
        ]
        for url in (script.url, good.url):
            aviary.adopt(Kind.TOPOLOGY, url.removeprefix("http://"))
        settings = {"OLLAMA_BACKENDS": msgspec.json.encode(specs).decode()}
        gateway = await stack.enter_async_context(home.running(settings=settings))
        await gateway.knows(len(specs))
        key = await gateway.tenant(SHARED, ALONE)
        admin = await gateway.admin_key()
        for secret in (key.text, admin):
            aviary.adopt(Kind.SECRET, secret.split("_")[2])
        aviary.adopt(Kind.SECRET, METRICS_TOKEN)
        async with gateway.client() as client:
            visitor = Visitor(client, aviary, harvest)
            statuses = await ask_everything(visitor, aviary, key, script)
            harvest.in_band = await ask_for_streams_that_fail(visitor, aviary, key, script)
            await ask_wrongly(visitor, aviary, key)
            assert {200, 400, 403, 404, 502, 503} <= statuses
            metrics = await client.get("/metrics", headers={"authorization": f"Bearer {METRICS_TOKEN}"})
        harvest.metrics = metrics.text
        redis = Redis.from_url(home.redis_url)
        stack.push_async_callback(redis.aclose)
        harvest.redis = await all_of_redis(redis)
        harvest.journal = "".join(
            path.read_bytes().replace(b"\0", b"").decode("latin-1")
            for path in gateway.journal.rglob("*")
            if path.is_file()
        )
        await gateway.app.stop()
        await gateway.worker.stop()
        harvest.postgres = await all_of_postgres(gateway.database.engine)
        harvest.redis += await all_of_redis(redis)
        harvest.app_log = gateway.app.log()
        harvest.worker_log = gateway.worker.log()
        yield harvest


async def test_t33_there_are_canaries_everywhere(aviary: Aviary, harvest: Harvest) -> None:
    assert all(len(aviary.of[kind]) >= 10 for kind in Kind), {kind: len(aviary.of[kind]) for kind in Kind}
    assert len(aviary) >= 60
    assert all(harvest.of_operators().values())
    assert len(harvest.tenants) > 300


async def test_t33_streams_that_began_ended_in_an_error_of_ours(harvest: Harvest) -> None:
    assert len(harvest.in_band) == sum(map(len, FAILING.values()))
    for told in harvest.in_band:
        assert told.startswith("200 ")
        assert "begun" in told
        assert '"error"' in told


async def test_t33_a_tenant_sees_nothing_of_anybody(aviary: Aviary, harvest: Harvest) -> None:
    assert {word for got in harvest.tenants for word in aviary.in_(got)} == set()


@pytest.mark.parametrize("place", ["app_log", "worker_log", "metrics", "redis", "postgres", "journal"])
async def test_t35_secrets_prompts_and_what_clients_say_stay_nowhere(
    aviary: Aviary, harvest: Harvest, place: str
) -> None:
    assert aviary.in_(harvest.of_operators()[place], Kind.SECRET, Kind.PROMPT, Kind.CLIENT) == []


async def test_t33_what_a_backend_said_reaches_operators_in_the_log_alone(
    aviary: Aviary, harvest: Harvest
) -> None:
    assert aviary.in_(harvest.app_log, Kind.UPSTREAM) != []
    for name, content in harvest.of_operators().items():
        if name != "app_log":
            assert aviary.in_(content, Kind.UPSTREAM) == [], name


async def test_t33_what_a_backend_said_at_length_is_cut(aviary: Aviary, harvest: Harvest) -> None:
    for name, content in harvest.of_operators().items():
        assert aviary.in_(content, Kind.UPSTREAM_TAIL) == [], name
    assert max(map(len, harvest.app_log.splitlines())) <= LONGEST_LOG_LINE


async def test_operators_are_told_which_backend_it_was(aviary: Aviary, harvest: Harvest) -> None:
    names = aviary.of[Kind.TOPOLOGY]

    for place in (harvest.app_log, harvest.metrics, harvest.redis, harvest.postgres):
        assert any(name in place for name in names)
