"""The gateway behind nginx, set up as nginx-proxy does it, and behind Caddy, by the shipped files; and its restarts."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import httpx
import pytest

from app.embedded import ports
from domain.tenants import Actor
from tests.support.asking import MODEL, NATIVE_STREAM, NATIVE_WHOLE, OPENAI_STREAM, Shape, ask
from tests.support.caddy import SHIPPED as CADDYFILE
from tests.support.caddy import Caddy
from tests.support.counts import count
from tests.support.edges import Certificate, Edge
from tests.support.gateway import Gateway, Key
from tests.support.homes import Home
from tests.support.leaving_client import content_records, leaving_client
from tests.support.nginx import Nginx, plain_nginx
from tests.support.ollama import SimulatedOllama
from tests.support.repository import text_of
from tests.support.restarting import Replica, pressing_callers, steady_requests, verdict
from tests.support.waiting import until

HURRY: Final = 600.0
"""By this the shipped times are divided where a test waits for them, and those of the gateway with them."""
FIRST_BYTE_S: Final = 600 / HURRY
LONGEST_WAIT_S: Final = 1260 / HURRY
INTERVAL_MS: Final = 100
NEAR: Final = "127.0.0.2"
FAR: Final = "127.0.0.3"
SLOW: Final = "slow:1b"
"""Hosted by those alone who keep their clients waiting: whoever did is left out of use for a while."""
DRAIN_S: Final = 10.0
RATE: Final = 50
"""Requests that come each second while replicas are restarted."""
ROUNDS: Final = count(1, 10)
RESTARTED_BEHIND: Final = (Nginx, Caddy)[: count(1, 2)]
FAIL_TIMEOUT_S: Final = count(1, 10)
"""How long nginx leaves a replica alone that refused: ten seconds in earnest."""
CALLERS: Final = 30
HEADERS: Final = ("strict-transport-security", "x-content-type-options", "referrer-policy")


@pytest.fixture(scope="module")
async def running(home: Home) -> AsyncIterator[Gateway]:
    deadlines = {"deadlines": {"first_byte_s": FIRST_BYTE_S}}
    async with home.running(
        SimulatedOllama.start(name="a", models=MODEL, tokens=3),
        *(SimulatedOllama.start(name=name, models=SLOW) for name in "bc"),
        described={"b": deadlines, "c": deadlines},
        settings={
            "GATEWAY_PATH_KEYS": "true",
            "GATEWAY_TRUSTED_PROXIES": "127.0.0.1",
            "GATEWAY_DRAIN_SECONDS": str(DRAIN_S),
        },
    ) as gateway:
        yield gateway


@pytest.fixture
async def gateway(running: Gateway) -> Gateway:
    """Give the gateway with its backends as they were started."""
    for backend in running.backends.values():
        await backend.wait(in_flight=0)
        await backend.reset()
    return running


@pytest.fixture(scope="module")
async def key(running: Gateway) -> Key:
    """Give a key that may also stand in a path."""
    return await running.another_key(await running.tenant(), path_allowed=True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module", params=[Nginx, Caddy], ids=["nginx", "caddy"])
def kind(request: pytest.FixtureRequest) -> type[Nginx | Caddy]:
    """Give the kind of proxy."""
    found: type[Nginx | Caddy] = request.param
    return found


@contextmanager
def started(edge: Edge, *replicas: int) -> Iterator[Edge]:
    """Run an edge for the length of a block."""
    try:
        edge.start(replicas)
        yield edge
    finally:
        edge.stop()


@pytest.fixture(scope="module")
def edge(
    kind: type[Nginx | Caddy],
    running: Gateway,
    certificate: Certificate,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Edge]:
    """Run the proxy with the files as they are shipped."""
    with started(kind(tmp_path_factory.mktemp("edge") / kind.__name__, certificate), running.port) as edge:
        yield edge


@pytest.fixture
async def client(edge: Edge, key: Key) -> AsyncIterator[httpx.AsyncClient]:
    async with edge.client(headers=key.headers) as client:
        yield client


@pytest.mark.parametrize("shape", [NATIVE_STREAM, OPENAI_STREAM], ids=str)
async def test_each_record_arrives_before_the_next_one_is_written(
    gateway: Gateway, client: httpx.AsyncClient, shape: Shape
) -> None:
    a = gateway.backends["a"]
    await a.change(tokens=4, token_interval_ms=INTERVAL_MS)
    written: list[int] = []
    seen = b""
    async with client.stream("POST", shape.path, json=shape.body(MODEL)) as reply:
        async for piece in reply.aiter_raw():
            seen += piece
            if content_records(seen) == len(written) + 1:
                written.append((await a.stats()).tokens)

    assert written[:3] == [1, 2, 3]


async def test_the_longest_silent_wait_survives(
    gateway: Gateway, key: Key, kind: type[Nginx | Caddy], certificate: Certificate, tmp_path: Path
) -> None:
    await gateway.backends["b"].order("hang")
    rest_s = 0.85 * LONGEST_WAIT_S - FIRST_BYTE_S
    await gateway.backends["c"].order("slow", delay_ms=round(rest_s * 1000))
    with started(kind(tmp_path / "edge", certificate, hurry=HURRY), gateway.port) as edge:
        async with edge.client(headers=key.headers) as client:
            began = time.monotonic()
            reply = await ask(client, NATIVE_WHOLE, SLOW)

    assert (reply.status_code, time.monotonic() - began > FIRST_BYTE_S + rest_s) == (200, True)


async def test_a_client_that_leaves_before_the_first_byte_frees_the_backend(
    gateway: Gateway, client: httpx.AsyncClient
) -> None:
    a = gateway.backends["a"]
    await a.order("hang")
    asking = asyncio.create_task(ask(client, NATIVE_STREAM, MODEL))
    await a.wait(started=1)

    asking.cancel()

    (request,) = await a.requests(in_flight=0, timeout_s=5)
    assert request.outcome == "client_closed"


async def test_a_client_that_leaves_a_stream_frees_the_backend(
    gateway: Gateway, client: httpx.AsyncClient
) -> None:
    a = gateway.backends["a"]
    await a.change(tokens=1000, token_interval_ms=10)
    async with client.stream("POST", NATIVE_STREAM.path, json=NATIVE_STREAM.body(MODEL)) as reply:
        await anext(reply.aiter_raw())

    (request,) = await a.requests(in_flight=0, timeout_s=5)
    assert request.outcome == "client_closed"


async def _key_for(gateway: Gateway, network: str) -> Key:
    """Mint a key that works from one address."""
    key = await gateway.tenant()
    async with gateway.database.unit_of_work(Actor("test")) as work:
        issued = await work.keys(key.tenant_id).create(
            "bound", peppers=gateway.peppers, allowed_networks=[ip_network(network)]
        )
    return Key(issued.minted.reveal(), key.tenant, key.tenant_id, issued.summary.id)


@pytest.mark.parametrize("claimed", [NEAR, "127.0.0.1"])
async def test_the_gateway_knows_where_clients_are_and_believes_no_claim(
    gateway: Gateway, edge: Edge, claimed: str
) -> None:
    key = await _key_for(gateway, NEAR if claimed == NEAR else "127.0.0.1/32")
    claims = {
        "X-Forwarded-For": claimed,
        "X-Real-IP": claimed,
        "Forwarded": f"for={claimed}",
        "True-Client-IP": claimed,
        "X-Client-IP": claimed,
    }
    async with edge.client(headers=key.headers, source=claimed) as there:
        assert (await there.get("/api/tags")).status_code == 200
    async with edge.client(headers=key.headers, source=FAR) as elsewhere:
        assert (await elsewhere.get("/api/tags")).status_code == 401
        assert (await elsewhere.get("/api/tags", headers=claims)).status_code == 401


@pytest.mark.parametrize("path", ["/", "/api/tags", "/nothing", "/k/x/api/tags"])
async def test_each_security_header_is_there_once(edge: Edge, path: str) -> None:
    async with edge.client() as client:
        reply = await client.get(path)

    assert [len(reply.headers.get_list(name)) for name in HEADERS] == [1] * len(HEADERS)
    assert "max-age=31536000" in reply.headers["strict-transport-security"]


async def test_a_prompt_as_large_as_images_are_passes(client: httpx.AsyncClient) -> None:
    reply = await ask(client, NATIVE_WHOLE, MODEL, messages=[{"role": "user", "content": "x" * (3 << 20)}])

    assert reply.status_code == 200


async def test_they_are_also_on_what_the_proxy_answers_itself(
    kind: type[Nginx | Caddy], certificate: Certificate, tmp_path: Path
) -> None:
    with started(kind(tmp_path / "edge", certificate, hurry=HURRY), ports.pick()) as edge:
        async with edge.client() as client:
            reply = await client.get("/")

    assert reply.status_code == httpx.codes.BAD_GATEWAY
    assert [len(reply.headers.get_list(name)) for name in HEADERS] == [1] * len(HEADERS)


async def ask_with_the_key_everywhere(edge: Edge, key: Key) -> None:
    """Ask with the key in each place that is allowed; leave a stream of it."""
    in_path = f"/k/{key.text}"
    async with edge.client(headers=key.headers | {"x-api-key": key.text}) as client:
        await client.get(f"{in_path}/api/tags", headers={"Referer": in_path})
        how = client.stream("POST", in_path + NATIVE_STREAM.path, json=NATIVE_STREAM.body(MODEL))
        async with how as reply:
            await anext(reply.aiter_raw(), b"")
        await client.get("/last")


@pytest.mark.parametrize("reachable", [True, False], ids=["served", "in vain"])
async def test_no_log_holds_a_key(
    gateway: Gateway,
    key: Key,
    kind: type[Nginx | Caddy],
    certificate: Certificate,
    tmp_path: Path,
    *,
    reachable: bool,
) -> None:
    await gateway.backends["a"].change(tokens=1000, token_interval_ms=10)
    replica = gateway.port if reachable else ports.pick()
    with started(kind(tmp_path / "edge", certificate, hurry=1 if reachable else HURRY), replica) as edge:
        await ask_with_the_key_everywhere(edge, key)
        logs = await edge.logged("/last")

    assert key.text not in logs
    assert key.text.split("_")[1] not in logs


def shown(language: str) -> str:
    """Return the one block in that language which the page for clients shows."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", text_of("docs/clients.md"), re.DOTALL)
    return str(block)


@pytest.mark.parametrize("reachable", [True, False], ids=["served", "in vain"])
async def test_the_documented_nginx_keeps_keys_out_of_its_logs(
    gateway: Gateway, key: Key, tmp_path: Path, *, reachable: bool
) -> None:
    port, replica = ports.pick(), gateway.port if reachable else ports.pick()
    told = (
        shown("nginx")
        .replace("/var/log/nginx", str(tmp_path / "nginx"))
        .replace("server {", f"server {{ listen 127.0.0.1:{port};")
        .replace("127.0.0.1:8000", f"127.0.0.1:{replica}")
    )
    with plain_nginx(told, tmp_path / "nginx", port):
        async with gateway.client(url=f"http://127.0.0.1:{port}") as client:
            reply = await client.get(f"/k/{key.text}/api/tags")

    logs = "".join(path.read_text() for path in (tmp_path / "nginx").glob("*.log"))
    assert reply.status_code == (200 if reachable else 502)
    assert ('"GET /k/***/api/tags" ' in logs, key.text in logs) == (True, False)


def test_the_documented_caddy_is_the_shipped_one() -> None:
    assert " ".join(shown("caddyfile").split()) in " ".join(CADDYFILE.read_text().split())


# -- restarts


@pytest.fixture
def replica(gateway: Gateway) -> Replica:
    """Give the gateway's only app, as one that may be restarted."""
    return Replica(gateway.app, gateway.url)


@pytest.fixture
async def replicas(gateway: Gateway, replica: Replica) -> AsyncIterator[list[Replica]]:
    """Give it and another one."""
    another = Replica(*gateway.neighbour())
    another.program.start()
    try:
        await another.ready(gateway)
        yield [replica, another]
    finally:
        another.program.kill()


async def test_f27_told_to_stop_it_says_so_on_open_connections_and_then_closes_its_door(
    gateway: Gateway, replica: Replica, key: Key
) -> None:
    await gateway.backends["a"].change(tokens=120, token_interval_ms=20)
    async with gateway.client(key) as client, leaving_client(gateway.url) as kept:
        streaming = asyncio.create_task(ask(client, NATIVE_STREAM, MODEL))
        await gateway.backends["a"].wait(tokens=1)
        assert await kept.get("/readyz", key=key.text) == 200
        with replica.told_to_stop():
            async with asyncio.timeout(10):
                while await kept.get("/readyz", key=key.text) == httpx.codes.OK:
                    pass
            served = await kept.get("/api/tags", key=key.text)
            while await gateway.status("/healthz") == httpx.codes.OK:
                pass
            refused_meanwhile = not streaming.done()
            streamed = verdict(NATIVE_STREAM, await streaming)
            code = await replica.program.ended()
    await replica.ready(gateway)

    assert (served, refused_meanwhile, streamed, code) == (200, True, "whole", 0)


async def test_no_connection_that_was_made_is_lost_and_nobody_is_let_in_too_early(
    gateway: Gateway, replica: Replica, key: Key
) -> None:
    async with pressing_callers(replica, key, callers=CALLERS) as heard:
        for _ in range(ROUNDS):
            await until(lambda: heard["200"] > CALLERS, within_s=10)
            with replica.told_to_stop():
                await replica.program.ended()
            heard["200"] = 0
            await replica.ready(gateway)
        await until(lambda: heard["200"] > CALLERS, within_s=10)

    assert set(heard) == {"200", "refused"}, heard


@pytest.mark.timeout(count(120, 1200))
@pytest.mark.parametrize("kind", RESTARTED_BEHIND)
async def test_f28_a_rolling_restart_loses_no_request(
    gateway: Gateway,
    replicas: list[Replica],
    kind: type[Nginx | Caddy],
    certificate: Certificate,
    tmp_path: Path,
) -> None:
    key = await gateway.tenant()
    edge: Edge = (
        Nginx(tmp_path / "edge", certificate, fail_timeout_s=FAIL_TIMEOUT_S)
        if kind is Nginx
        else kind(tmp_path / "edge", certificate)
    )
    with started(edge, *(each.port for each in replicas)):
        async with steady_requests(edge, key, per_second=RATE) as heard:
            codes = [await restart(gateway, replicas[0], edge, replicas)]
            for turn in range(1, 2 * ROUNDS):
                if isinstance(edge, Nginx):
                    # What is asked of operators between two restarts. nginx counts whole seconds.
                    await asyncio.sleep(FAIL_TIMEOUT_S + 1.5)
                codes.append(await restart(gateway, replicas[turn % 2], edge, replicas))

    assert (set(codes), set(heard)) == ({0}, {"whole"}), heard
    rows = await gateway.rows_of_all(key, heard["whole"])
    assert Counter(row.outcome for row in rows) == {"completed": heard["whole"]}


async def restart(gateway: Gateway, replica: Replica, edge: Edge, replicas: list[Replica]) -> int:
    """Restart a replica as its container would be, with nginx-proxy following; return the exit code."""
    with replica.told_to_stop():
        code = await replica.program.ended()
        if isinstance(edge, Nginx):
            edge.reload([each.port for each in replicas if each is not replica])
    if isinstance(edge, Nginx):
        edge.reload([each.port for each in replicas])
    await replica.ready(gateway)
    return code
