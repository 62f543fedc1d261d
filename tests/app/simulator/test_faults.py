"""Every fault does what its name says, on the wire."""

import gzip
import json
import zlib

import anyio
import httpx
import pytest

from tests.app.simulator.raw import (
    CHAT,
    COMPLETION,
    chunks_of,
    dial,
    leave_rudely,
    post,
    read_all,
    read_until,
    talk,
)
from tests.support.ollama import SimulatedOllama

CLOSE = "Connection: close"
BUSY = "server busy, please try again.  maximum pending requests exceeded"
WHOLE = CHAT | {"stream": False}
V1_STREAM = CHAT | {"stream": True}


async def broken_off(ollama: SimulatedOllama, request: bytes) -> bytes:
    """Return what came before the connection was reset."""
    received = b""
    with anyio.fail_after(10):
        async with await dial(ollama.url) as stream:
            await stream.send(request)
            try:
                while True:
                    received += await stream.receive()
            except anyio.BrokenResourceError:
                return received


async def test_refuse_closes_the_door_until_told_otherwise(
    ollama: SimulatedOllama, api: httpx.AsyncClient
) -> None:
    await api.get("/api/version")
    await ollama.refuse()

    with pytest.raises(httpx.ConnectError):
        await api.get("/api/version")
    await ollama.accept_again()
    assert (await api.get("/api/version")).status_code == 200


async def test_refuse_can_end_by_itself(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await ollama.refuse(for_ms=50)

    await ollama.accepting()

    assert (await api.get("/api/version")).status_code == 200


async def test_refuse_lets_running_streams_finish(ollama: SimulatedOllama) -> None:
    await ollama.change(token_interval_ms=20)
    async with await dial(ollama.url) as stream:
        await stream.send(post("/api/chat", CHAT))
        await read_until(stream, b"\n")
        await ollama.refuse()
        rest = await read_all(stream)
    await ollama.accept_again()

    assert b'"done":true' in rest


async def test_hang_reads_and_never_answers(ollama: SimulatedOllama, api: httpx.AsyncClient) -> None:
    await ollama.order("hang")

    with pytest.raises(httpx.ReadTimeout):
        await api.post("/api/chat", json=CHAT, timeout=httpx.Timeout(5, read=0.1))
    (seen,) = await ollama.requests(ended=1)
    assert (seen.outcome, seen.tokens, seen.fault) == ("client_closed", 0, "hang")


async def test_hang_after_stops_in_mid_stream(ollama: SimulatedOllama) -> None:
    await ollama.order("hang", after=2)
    async with await dial(ollama.url) as stream:
        await stream.send(post("/api/chat", CHAT))
        stats = await ollama.wait(tokens=2)

        assert (stats.tokens, stats.in_flight) == (2, 1)


async def test_die_before_resets_before_the_head(ollama: SimulatedOllama) -> None:
    await ollama.order("die_before")

    assert await broken_off(ollama, post("/api/chat", CHAT)) == b""


async def test_die_before_may_also_close(ollama: SimulatedOllama) -> None:
    await ollama.order("die_before", reset=False)

    assert await talk(ollama.url, post("/api/chat", CHAT)) == b""


async def test_die_after_resets_after_n_records(ollama: SimulatedOllama) -> None:
    await ollama.change(token_interval_ms=10)
    await ollama.order("die_after", after=3)

    received = await broken_off(ollama, post("/api/chat", CHAT))

    (seen,) = await ollama.requests(ended=1)
    assert (seen.tokens, seen.outcome) == (3, "cut")
    assert received.count(b'"done":false') == 3


async def test_die_after_cuts_a_whole_answer_in_the_middle(ollama: SimulatedOllama) -> None:
    await ollama.order("die_after")

    received = await broken_off(ollama, post("/api/chat", WHOLE))

    assert b'"done":true' not in received


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_error_first_is_a_200_with_an_error(
    api: httpx.AsyncClient, ollama: SimulatedOllama, path: str
) -> None:
    await ollama.order("error_first", body="no memory")

    answer = await api.post(path, json=V1_STREAM)

    error = json.loads(answer.text.removeprefix("data: "))["error"]
    assert answer.status_code == 200
    assert "no memory" in (error, error["message"] if isinstance(error, dict) else "")


async def test_inband_error_is_the_last_native_line(api: httpx.AsyncClient, ollama: SimulatedOllama) -> None:
    await ollama.order("inband_error", after=2, body="it broke")

    *said, error = (await api.post("/api/generate", json=COMPLETION)).text.splitlines()

    assert (len(said), json.loads(error)) == (2, {"error": "it broke"})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_inband_error_is_swallowed_on_v1(
    api: httpx.AsyncClient, ollama: SimulatedOllama, path: str
) -> None:
    await ollama.order("inband_error", after=2, body="it broke")

    text = (await api.post(path, json=V1_STREAM | COMPLETION)).text

    assert text.count("data: ") == 3
    assert not any(word in text for word in ("it broke", "[DONE]", '"stop"'))


async def test_inband_error_of_a_whole_answer_is_a_500(
    api: httpx.AsyncClient, ollama: SimulatedOllama
) -> None:
    await ollama.order("inband_error", body="it broke")

    answer = await api.post("/api/chat", json=WHOLE)

    assert (answer.status_code, answer.json()) == (500, {"error": "it broke"})


@pytest.mark.parametrize(("after", "records"), [(0, 0), (4, 4), (None, 12)])
async def test_truncated_ends_the_framing_without_terminator(
    api: httpx.AsyncClient, ollama: SimulatedOllama, after: int | None, records: int
) -> None:
    await ollama.order("truncated", after=after)

    text = (await api.post("/api/chat", json=CHAT)).text

    assert (records, 0) == (text.count('"done":false'), text.count('"done":true'))


async def test_truncated_may_cut_inside_a_record(api: httpx.AsyncClient, ollama: SimulatedOllama) -> None:
    await ollama.order("truncated", after=1, partial=True)

    whole, half = (await api.post("/api/chat", json=CHAT)).text.split("\n")

    assert whole.startswith(half[:40])
    assert not half.endswith("}")


async def test_close_delimited_cut_is_a_plain_end(ollama: SimulatedOllama) -> None:
    await ollama.order("close_delimited", after=2)

    head, _, body = (await talk(ollama.url, post("/api/chat", CHAT))).partition(b"\r\n\r\n")

    assert b"Connection: close" in head
    assert not any(word in head for word in (b"Transfer-Encoding", b"Content-Length"))
    assert (body.count(b'"done":false'), body.count(b'"done":true')) == (2, 0)


async def test_close_delimited_answer_may_be_complete(ollama: SimulatedOllama) -> None:
    await ollama.order("close_delimited")

    assert b'"done":true' in await talk(ollama.url, post("/api/chat", CHAT))


@pytest.mark.parametrize(
    ("fault", "status", "message"),
    [
        ({"fault": "missing_model"}, 404, "model 'llama3.2' not found"),
        ({"fault": "busy"}, 503, BUSY),
        ({"fault": "status", "body": 'option "seed" must be of type integer'}, 500, None),
        ({"fault": "status", "status": 401, "body": "unauthorized"}, 401, "unauthorized"),
        ({"fault": "status", "status": 429, "body": "slow down"}, 429, "slow down"),
    ],
)
async def test_status_faults_speak_both_families(
    api: httpx.AsyncClient,
    ollama: SimulatedOllama,
    fault: dict[str, object],
    status: int,
    message: str | None,
) -> None:
    await ollama.order(**(fault | {"count": 2}))  # type: ignore[arg-type]

    native, openai = [await api.post(path, json=CHAT) for path in ("/api/chat", "/v1/chat/completions")]

    expected = message or fault["body"]
    assert (status, {"error": expected}) == (native.status_code, native.json())
    assert (status, expected) == (openai.status_code, openai.json()["error"]["message"])


async def test_status_may_carry_literal_bytes(api: httpx.AsyncClient, ollama: SimulatedOllama) -> None:
    await ollama.order("status", status=502, raw_body="<html>bad gateway</html>", content_type="text/html")

    answer = await api.post("/api/chat", json=CHAT)

    assert (answer.status_code, answer.text) == (502, "<html>bad gateway</html>")
    assert answer.headers["content-type"] == "text/html"


async def test_slow_delays_the_head(api: httpx.AsyncClient, ollama: SimulatedOllama) -> None:
    await ollama.order("slow", delay_ms=150)

    await api.post("/api/chat", json=WHOLE)

    (seen,) = await ollama.requests(ended=1)
    assert seen.ended_s is not None
    assert seen.ended_s - seen.started_s >= 0.14


async def test_slow_delays_each_record(api: httpx.AsyncClient, ollama: SimulatedOllama) -> None:
    await ollama.order("slow", chunk_delay_ms=10)

    final = json.loads((await api.post("/api/chat", json=CHAT)).text.splitlines()[-1])

    assert final["eval_duration"] == 12 * 10_000_000


async def test_redirect_points_elsewhere(api: httpx.AsyncClient, ollama: SimulatedOllama) -> None:
    await ollama.order("redirect", location="http://127.0.0.1:9/api/pull")

    answer = await api.post("/api/chat", json=CHAT)

    assert (answer.status_code, answer.headers["location"]) == (307, "http://127.0.0.1:9/api/pull")


async def test_endless_line_has_no_line_end(ollama: SimulatedOllama) -> None:
    await ollama.order("endless_line", size=3_000_000)

    answer = await talk(ollama.url, post("/api/chat", CHAT))

    body = b"".join(answer.partition(b"\r\n\r\n")[2].split(b"\r\n"))
    assert len(body) > 3_000_000
    assert b"\n" not in body


async def test_endless_line_waits_for_its_reader(ollama: SimulatedOllama) -> None:
    await ollama.order("endless_line", size=1 << 40)
    async with await dial(ollama.url) as stream:
        await stream.send(post("/api/chat", CHAT))
        await read_until(stream, b"aaa")
        leave_rudely(stream)

    (seen,) = await ollama.requests(ended=1)
    assert seen.outcome == "client_closed"


async def test_huge_headers(ollama: SimulatedOllama) -> None:
    await ollama.order("huge_headers", size=300_000)

    head, _, _ = (await talk(ollama.url, post("/api/chat", CHAT, CLOSE))).partition(b"\r\n\r\n")

    assert len(head) > 300_000


async def test_gzip_body_is_compressed_record_by_record(ollama: SimulatedOllama) -> None:
    await ollama.order("gzip_body")

    answer = await talk(ollama.url, post("/api/chat", CHAT, CLOSE))

    first, *_ = chunks = chunks_of(answer)
    assert b"Content-Encoding: gzip\r\n" in answer
    assert zlib.decompressobj(wbits=31).decompress(first).endswith(b"}\n")
    assert b'"done":true' in gzip.decompress(b"".join(chunks))


async def test_garbage_is_not_http(ollama: SimulatedOllama) -> None:
    await ollama.order("garbage")

    assert not (await talk(ollama.url, post("/api/chat", CHAT))).startswith(b"HTTP")


async def test_tiny_chunks_carry_one_byte_each(ollama: SimulatedOllama) -> None:
    await ollama.order("tiny_chunks", count=2)

    streamed, whole = [
        chunks_of(await talk(ollama.url, post("/api/chat", body, CLOSE))) for body in (CHAT, WHOLE)
    ]

    assert {1} == {len(chunk) for chunk in (*streamed, *whole)}
    assert b"".join(streamed).endswith(b"}\n")
    assert json.loads(b"".join(whole))["done"] is True


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_wrong_length_lies(ollama: SimulatedOllama, size: int) -> None:
    await ollama.order("wrong_length", size=size)

    head, _, body = (await talk(ollama.url, post("/api/chat", WHOLE))).partition(b"\r\n\r\n")

    assert f"Content-Length: {size}\r\n".encode() in head
    assert len(body) != size
    assert body.endswith(b"}")


async def test_count_limits_a_fault(api: httpx.AsyncClient, ollama: SimulatedOllama) -> None:
    await ollama.order("busy", count=2)

    statuses = [(await api.post("/api/chat", json=CHAT)).status_code for _ in range(3)]

    assert statuses == [503, 503, 200]


async def test_fault_without_count_stays_until_withdrawn(
    api: httpx.AsyncClient, ollama: SimulatedOllama
) -> None:
    await ollama.order("busy", count=None)
    during = [(await api.post("/api/chat", json=CHAT)).status_code for _ in range(3)]
    await ollama.withdraw()

    assert (during, (await api.post("/api/chat", json=CHAT)).status_code) == ([503] * 3, 200)


async def test_faults_of_one_path_can_outlive_the_withdrawal_of_the_others(
    api: httpx.AsyncClient, ollama: SimulatedOllama
) -> None:
    await ollama.order("busy", count=None)
    await ollama.order("busy", path="/api/tags", count=None)
    await ollama.order("busy", path="/api/version", count=None)
    await ollama.withdraw(but="/api/tags")

    statuses = [(await api.get(path)).status_code for path in ("/api/tags", "/api/version")]
    assert (statuses, (await api.post("/api/chat", json=CHAT)).status_code) == ([503, 200], 200)


async def test_fault_can_be_bound_to_a_model(api: httpx.AsyncClient, ollama: SimulatedOllama) -> None:
    await ollama.order("busy", model="QWEN3:8b")

    statuses = [
        (await api.post("/api/chat", json=CHAT | {"model": model})).status_code
        for model in ("llama3.2", "qwen3:8b")
    ]

    assert statuses == [200, 503]


async def test_fault_can_be_bound_to_a_path(api: httpx.AsyncClient, ollama: SimulatedOllama) -> None:
    await ollama.order("busy", path="/api/tags")

    statuses = [
        (await api.post("/api/chat", json=CHAT)).status_code,
        (await api.get("/api/tags")).status_code,
    ]

    assert statuses == [200, 503]


async def test_fault_for_any_path_hits_lists_too(api: httpx.AsyncClient, ollama: SimulatedOllama) -> None:
    await ollama.order("garbage", path="*")

    with pytest.raises(httpx.RemoteProtocolError):
        await api.get("/api/version")


async def test_delay_goes_before_any_fault(api: httpx.AsyncClient, ollama: SimulatedOllama) -> None:
    await ollama.order("busy", delay_ms=100)

    await api.post("/api/chat", json=CHAT)

    (seen,) = await ollama.requests(ended=1)
    assert seen.ended_s is not None
    assert seen.ended_s - seen.started_s >= 0.09
