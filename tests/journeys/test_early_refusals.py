"""Whoever is refused before its body was read hears so, however much it still sends."""

import pytest

from tests.support.gateway import Gateway, Key
from tests.support.leaving_client import leaving_client

SENT = 4 * 1024 * 1024
TIMES = 10


def head(request_line: str, key: str, length: int) -> bytes:
    """Return the head of a request."""
    return (
        f"{request_line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize(
    ("request_line", "right_key", "length", "status"),
    [
        ("POST /api/chat", False, SENT, 401),
        ("PUT /api/chat", True, SENT, 405),
        ("POST /v1/embeddings", True, 9 * 1024 * 1024, 413),
    ],
)
async def test_a_client_that_sends_all_before_it_reads_gets_its_refusal(
    gateway: Gateway, everything: Key, request_line: str, length: int, status: int, *, right_key: bool
) -> None:
    key = everything.text if right_key else "nng_no_key"

    async def heard() -> int:
        async with leaving_client(gateway.url) as client:
            await client.send(head(request_line, key, length))
            await client.send(b" " * length)
            told, headers = await client.head()
            await client.body(headers)
            return told

    assert {await heard() for _ in range(TIMES)} == {status}


async def test_the_connection_serves_the_next_request(gateway: Gateway, everything: Key) -> None:
    async with leaving_client(gateway.url) as client:
        await client.send(head("POST /api/chat", "nng_no_key", SENT))
        await client.send(b" " * SENT)
        refused, headers = await client.head()
        await client.body(headers)
        await client.send(head("GET /api/tags", everything.text, 0))
        answered, _ = await client.head()

    assert (refused, answered) == (401, 200)


@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"])
async def test_a_client_that_sends_nothing_more_is_told_all_the_same(gateway: Gateway, expect: str) -> None:
    async with leaving_client(gateway.url) as client:
        asking = head("POST /api/chat", "nng_no_key", SENT).replace(
            b"Host: x\r\n", f"Host: x\r\n{expect}".encode()
        )
        await client.send(asking)
        status, headers = await client.head()
        body = await client.body(headers)

    assert status == 401
    assert b"API key" in body
