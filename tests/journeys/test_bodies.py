"""Large bodies: images that backends survive, uploads that stand still, and what a process holds of them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx
import pytest

from app.gateway.body import LARGE_BYTES
from tests.support.asking import (
    ANTHROPIC_WHOLE,
    NATIVE_STREAM,
    NATIVE_WHOLE,
    OPENAI_WHOLE,
    RESPONSES_WHOLE,
    Shape,
    ask,
    is_refusal,
)
from tests.support.counts import count
from tests.support.fleet import COMMON, EMBEDDER
from tests.support.gateway import Gateway, Key
from tests.support.homes import Home
from tests.support.leaving_client import LeavingClient, leaving_client
from tests.support.ollama import SimulatedOllama
from tests.support.pictures import jpeg, png, text, webp

MAX_BODY: Final = 1 << 20
HELD: Final = "nng_buffered_request_bytes"
STUCK: Final = count(16, 500)


@pytest.fixture(scope="module")
async def small(home: Home) -> AsyncIterator[Gateway]:
    """Run a gateway that holds no more than its largest body."""
    async with home.running(
        SimulatedOllama.start(models=f"{COMMON}:latest,{EMBEDDER}:latest", token_interval_ms=1),
        settings={
            "GATEWAY_MAX_BODY_BYTES": str(MAX_BODY),
            "GATEWAY_MAX_BUFFERED_BYTES": str(MAX_BODY),
            "GATEWAY_BODY_TIMEOUT_SECONDS": "60",
        },
    ) as gateway:
        yield gateway


@pytest.fixture(scope="module")
async def owner(small: Gateway) -> Key:
    return await small.tenant()


@pytest.fixture
async def client(small: Gateway, owner: Key) -> AsyncIterator[httpx.AsyncClient]:
    async with small.client(owner) as client:
        yield client
    assert (await small.metrics())[HELD] == 0


def with_image(shape: Shape, image: str, *, url: str = "") -> dict[str, Any]:
    """Return the fields of a request that shows a model an image, as its family does it."""
    said = "What is this?"
    if shape.native:
        return {"messages": [{"role": "user", "content": said, "images": [url or image]}]}
    url = url or f"data:image/png;base64,{image}"
    if shape is RESPONSES_WHOLE:
        parts = [{"type": "input_text", "text": said}, {"type": "input_image", "image_url": url}]
        return {"input": [{"role": "user", "content": parts}]}
    if shape is ANTHROPIC_WHOLE:
        source = {"type": "base64", "media_type": "image/png", "data": image}
        if url.startswith("http"):
            source = {"type": "url", "url": url}
        return {"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


LARGE: Final = (png().rstrip("=") + "A" * LARGE_BYTES)[: LARGE_BYTES // 4 * 4]
FAMILIES: Final = (NATIVE_WHOLE, OPENAI_WHOLE, RESPONSES_WHOLE, ANTHROPIC_WHOLE)


@pytest.mark.parametrize("image", [png(), jpeg(640, 480), LARGE], ids=["png", "jpeg", "large"])
@pytest.mark.parametrize("shape", FAMILIES, ids=str)
async def test_an_image_travels_as_it_came(
    small: Gateway, client: httpx.AsyncClient, shape: Shape, image: str
) -> None:
    (backend,) = small.backends.values()
    await backend.reset()

    assert (await ask(client, shape, **with_image(shape, image))).status_code == 200
    (seen,) = [each for each in await backend.requests() if each.path == shape.path]
    assert image in seen.raw_body


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (text(b"GIF89a" + bytes(40)), "neither PNG nor JPEG"),
        ("AAAA", "neither PNG nor JPEG"),
        (png(60_000, 60_000), "million pixels"),
        (webp(), "WebP"),
        (text(b"GIF89a" + bytes(LARGE_BYTES)), "neither PNG nor JPEG"),
    ],
    ids=["gif", "junk", "giant", "webp", "large gif"],
)
@pytest.mark.parametrize("shape", FAMILIES, ids=str)
async def test_an_image_that_may_harm_a_backend_is_refused_with_a_reason(
    client: httpx.AsyncClient, shape: Shape, image: str, why: str
) -> None:
    reply = await ask(client, shape, **with_image(shape, image))

    assert (reply.status_code, is_refusal(shape, reply), why in reply.text) == (400, True, True), reply.text


@pytest.mark.parametrize("shape", FAMILIES, ids=str)
async def test_nothing_is_fetched_from_an_address(client: httpx.AsyncClient, shape: Shape) -> None:
    reply = await ask(client, shape, **with_image(shape, "", url="http://169.254.169.254/latest"))

    assert (reply.status_code, "base64" in reply.text) == (400, True)
    assert "169.254" not in reply.text


async def test_an_argument_of_a_tool_call_may_be_an_address(client: httpx.AsyncClient) -> None:
    call = {"function": {"name": "look", "arguments": {"image_url": "https://example.org/x.png"}}}
    messages = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "A cat."},
    ]

    assert (await ask(client, NATIVE_WHOLE, messages=messages)).status_code == 200


async def test_a_route_without_images_takes_a_quarter(client: httpx.AsyncClient) -> None:
    words = "x" * (MAX_BODY // 3)

    embedding = await client.post("/api/embed", json={"model": EMBEDDER, "input": words})
    chat = await ask(client, NATIVE_WHOLE, messages=[{"role": "user", "content": words}])

    assert (embedding.status_code, chat.status_code) == (413, 200)
    assert str(MAX_BODY // 4) in embedding.text


async def test_the_largest_body_fits_an_idle_process(client: httpx.AsyncClient) -> None:
    room = MAX_BODY - len(
        httpx.Request("POST", "http://x", json=NATIVE_WHOLE.body(messages=[{"content": ""}])).content
    )

    reply = await ask(client, NATIVE_WHOLE, messages=[{"content": "x" * room}])

    assert reply.status_code == 200


async def stuck(stack: AsyncExitStack, gateway: Gateway, key: Key, *, sent: int) -> LeavingClient:
    """Begin an upload and stop in the middle."""
    client = await stack.enter_async_context(leaving_client(gateway.url))
    await client.send(
        f"POST /api/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key.text}\r\n"
        f"Content-Length: {MAX_BODY - 1}\r\n\r\n".encode()
        + b" " * sent
    )
    return client


async def test_t16_stuck_uploads_do_not_starve_others(
    small: Gateway, owner: Key, client: httpx.AsyncClient
) -> None:
    words = "x" * 100_000
    async with AsyncExitStack() as stack:
        uploads = [await stuck(stack, small, owner, sent=MAX_BODY // STUCK) for _ in range(STUCK)]
        async with asyncio.timeout(20):
            while (await small.metrics())[HELD] < MAX_BODY * 0.9:
                pass

        replies = [await ask(client, NATIVE_WHOLE, messages=[{"content": words}]) for _ in range(10)]

        assert [reply.status_code for reply in replies] == [200] * 10
        await uploads[0].head()  # those that had to go were told, and closed
    async with asyncio.timeout(20):
        while (await small.metrics())[HELD]:
            pass


async def test_a_body_that_finds_no_room_is_told_to_come_back(
    small: Gateway, owner: Key, client: httpx.AsyncClient
) -> None:
    (backend,) = small.backends.values()
    await backend.reset()
    await backend.order("hang", count=1)
    async with small.client(owner) as patient:
        waiting = asyncio.create_task(
            ask(patient, NATIVE_WHOLE, messages=[{"content": "x" * (MAX_BODY * 3 // 4)}])
        )
        async with asyncio.timeout(20):
            while (await small.metrics())[HELD] < MAX_BODY // 2:
                pass

        reply = await ask(client, OPENAI_WHOLE, messages=[{"role": "user", "content": "x" * (MAX_BODY // 2)}])

        assert (reply.status_code, is_refusal(OPENAI_WHOLE, reply)) == (503, True)
        assert int(reply.headers["retry-after"]) >= 1
        waiting.cancel()
        await asyncio.wait([waiting])
    async with asyncio.timeout(20):
        while (await small.metrics())[HELD]:
            pass


async def test_a_stream_that_runs_holds_nothing_of_its_request(
    small: Gateway, client: httpx.AsyncClient
) -> None:
    (backend,) = small.backends.values()
    await backend.reset()
    await backend.order("hang", count=1, after=2)
    body = NATIVE_STREAM.body(messages=[{"content": "x" * (MAX_BODY // 2)}])

    async with client.stream("POST", "/api/chat", json=body) as reply:
        await anext(reply.aiter_bytes())
        held = (await small.metrics())[HELD]

    assert held == 0


async def test_webp_passes_once_no_backend_may_crash_on_it(small: Gateway, client: httpx.AsyncClient) -> None:
    (backend,) = small.backends.values()
    await backend.change(version="0.32.13")
    await small.polled_since(time.monotonic())

    reply = await ask(client, NATIVE_WHOLE, **with_image(NATIVE_WHOLE, webp()))

    assert reply.status_code == 200
