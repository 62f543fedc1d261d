"""How the admin API says no: always problem details, never a fault of ours for a mistake of the caller's."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from app.admin.surface import NO_BODY
from app.admin.wording import TIME
from domain.tenants import SLUG_RULE
from tests.support.admin import API, Desk, faults, problem
from tests.support.gateway import Gateway

POLICY = "/tenants/{}/policies/num_ctx"
DEEP = b'{"slug":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


async def test_an_unknown_path_is_not_found(desk: Desk) -> None:
    for path in ("/nothing", "/tenants/x/y", "/me/x", "/schema", "/docs"):
        problem(await desk.get(path), 404, "not-found")


@pytest.mark.parametrize(
    "path",
    ["/admin/x", "/admin/v2/me", "/admin/", "/admin/v1/", "/admin/v1/me/", "/admin/v1//me", "/admin/v1/%6de"],
)
async def test_a_path_that_is_none_is_not_found_in_the_same_words(desk: Desk, path: str) -> None:
    problem(await desk.client.get(path), 404, "not-found")


async def test_a_wrong_method_is_told_the_right_ones(desk: Desk) -> None:
    for method, path, allowed in [
        ("DELETE", "/tenants", {"GET", "POST", "OPTIONS"}),
        ("PUT", "/me", {"GET", "OPTIONS"}),
        ("BREW", "/me", {"GET", "OPTIONS"}),
    ]:
        reply = await desk.client.request(method, API + path)
        problem(reply, 405, "method-not-allowed")
        assert set(reply.headers["allow"].replace(" ", "").split(",")) == allowed


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"[]",
        b"null",
        b'"slug"',
        b'{"slug":"a"} {}',
        b'{"slug":"a","slug":"b"}',
        b'{"slug":"a","Slug":"b"}',
        b'{"slug":"\xff"}',
        b'\xef\xbb\xbf{"slug":"a"}',
        b'{"slug":"\\ud800"}',
        b'{"slug":NaN}',
        b'{"slug":1e400}',
        DEEP,
    ],
    ids=range(15),
)
async def test_t17_a_body_that_is_no_plain_object_is_a_bad_request(desk: Desk, body: bytes) -> None:
    problem(await desk.raw("POST", "/tenants", body), 400, "invalid-request")
    problem(await desk.raw("PATCH", "/tenants/nobody", body), 400, "invalid-request")


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/jsonx",
    ],
)
async def test_t24_only_json_is_json(desk: Desk, media_type: str) -> None:
    reply = await desk.raw("POST", "/tenants", b'{"slug":"x"}', Content_Type=media_type)

    problem(reply, 415, "unsupported-media-type")


async def test_json_may_name_its_charset(desk: Desk) -> None:
    body = b'{"slug":"A"}'

    assert faults(await desk.raw("POST", "/tenants", body, Content_Type="Application/JSON; charset=utf-8"))


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate"])
async def test_t18_a_compressed_body_is_not_opened(desk: Desk, encoding: str) -> None:
    reply = await desk.raw("POST", "/tenants", b"\x1f\x8b", Content_Encoding=encoding)

    problem(reply, 415, "unsupported-media-type")


async def test_t16_a_body_has_a_bounded_size(desk: Desk) -> None:
    body = b'{"slug":"' + b"x" * 300_000 + b'"}'

    problem(await desk.raw("POST", "/tenants", body), 413, "body-too-large")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_t24_another_site_s_page_cannot_use_a_browser_s_key(desk: Desk, site: str) -> None:
    slug = await desk.tenant()
    key = (await desk.new_key(slug))["summary"]["prefix"]
    path = f"{API}/tenants/{slug}/keys/{key}"

    sent = await desk.client.post(f"{path}/revoke", headers={"Sec-Fetch-Site": site})
    own = await desk.client.get(path, headers={"Sec-Fetch-Site": "same-origin"})

    problem(sent, 403, "cross-site")
    assert own.json()["status"] == "active"


async def test_every_answer_is_nobody_s_to_keep(desk: Desk) -> None:
    for reply in (await desk.get("/me"), await desk.get("/nothing"), await desk.get("/tenants", limit="x")):
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["server"] == "neuronetz-gateway"
        assert len(reply.headers.get_list("x-request-id")) == 1


def talk(gateway: Gateway, pieces: Sequence[bytes], *, leave: bool = False) -> bytes:
    """Send exact bytes and return what came back until the server closed, or leave at once."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        if leave:
            return b""
        answer = b""
        while not answer.endswith(b"}") and (more := connection.recv(65_536)):
            answer += more
        return answer


def head(desk: Desk, *more: bytes) -> bytes:
    """Return the head of a request that creates a tenant."""
    lines = [
        b"POST /admin/v1/tenants HTTP/1.1",
        b"Host: x",
        b"Content-Type: application/json",
        f"Authorization: Bearer {desk.key}".encode(),
        f"X-Forwarded-For: {desk.address}".encode(),
        *more,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def test_t17_broken_chunks_are_no_fault_of_ours(desk: Desk) -> None:
    before = desk.gateway.app.log().count("request_failed")
    broken = [head(desk, b"Transfer-Encoding: chunked"), b"zz\r\n{}\r\n0\r\n\r\n"]

    answer = await asyncio.to_thread(talk, desk.gateway, broken)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"problem:invalid-request" in answer
    assert desk.gateway.app.log().count("request_failed") == before


async def test_t19_a_request_that_could_end_in_two_places_is_refused(desk: Desk) -> None:
    doubtful = [head(desk, b"Transfer-Encoding: gzip, chunked"), b"2\r\n{}\r\n0\r\n\r\n"]

    answer = await asyncio.to_thread(talk, desk.gateway, doubtful)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"it is not certain" in answer.lower()


async def test_t16_a_body_that_does_not_come_is_given_up(desk: Desk) -> None:
    slow = [head(desk, b"Content-Length: 100"), b'{"slug"']

    answer = await asyncio.to_thread(talk, desk.gateway, slow)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"problem:body-too-slow" in answer


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_nobody_s_fault(desk: Desk) -> None:
    before = desk.gateway.app.log().count("request_failed")

    await asyncio.to_thread(talk, desk.gateway, [head(desk, b"Content-Length: 100"), b"{"], leave=True)

    assert (await desk.get("/me")).status_code == httpx.codes.OK
    assert desk.gateway.app.log().count("request_failed") == before


async def test_requests_are_counted_by_their_template(desk: Desk) -> None:
    await desk.get("/tenants/nobody")

    series = await desk.gateway.metrics()

    assert series['nng_requests_total{route="/admin/v1/tenants/{slug}",status="404"}'] >= 1
    assert not any("nobody" in name for name in series)


async def test_without_a_body_one_is_told_to_send_one(desk: Desk) -> None:
    slug = await desk.tenant()

    for method, path in [("POST", "/tenants"), ("PATCH", f"/tenants/{slug}"), ("PUT", POLICY.format(slug))]:
        reply = await desk.client.request(method, API + path)

        assert faults(reply) == {"#": NO_BODY}
        assert reply.json()["detail"] == NO_BODY


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"slug": 5}, {"#/slug": "This takes a text, not a whole number."}),
        ({"slug": "B"}, {"#/slug": f"A slug takes {SLUG_RULE}."}),
        ({"slug": "b", "name": "x" * 201}, {"#/name": "This takes at most 200 characters."}),
        (
            {"slug": "b", "name": "a\tb"},
            {"#/name": "This takes at least one character that can be seen, and no tabs or line breaks."},
        ),
        ({"slug": "b", "timeZone": ""}, {"#/timeZone": "This cannot be empty."}),
        ({"slug": "b", "allowAllModels": "x"}, {"#/allowAllModels": "This takes true or false, not a text."}),
    ],
)
async def test_a_field_s_fault_is_told_in_our_words(
    desk: Desk, body: dict[str, Any], told: dict[str, str]
) -> None:
    assert faults(await desk.post("/tenants", body)) == told


@pytest.mark.parametrize(
    ("path", "parameter", "value", "told"),
    [
        ("/tenants", "limit", "x", "This takes a whole number."),
        ("/tenants", "limit", "201", "This takes a whole number of at most 200."),
        ("/usage/export", "format", "xml", "This takes one of ndjson, csv."),
        ("/usage/rows", "outcome", "xml", "This takes one of completed, client_closed"),
        ("/audit", "since", "x", f"This takes {TIME}; write + as %2B in an address."),
        ("/audit", "action", "a b", "This takes letters from a to z, digits and signs, and no blanks."),
        ("/usage/sums", "by", "shoe", "This cannot be the value. What one line stands for: any of tenant"),
    ],
)
async def test_a_parameter_s_fault_is_told_in_our_words(
    desk: Desk, path: str, parameter: str, value: str, told: str
) -> None:
    found = faults(await desk.get(path, **{parameter: value}))

    assert list(found) == [parameter]
    assert found[parameter].startswith(told)


async def test_options_tells_the_methods_that_there_are(desk: Desk) -> None:
    for path in ("/tenants", "/tenants/x", POLICY.format("x"), "/me"):
        asked = await desk.client.options(API + path)
        refused = await desk.client.request("BREW", API + path)

        assert asked.status_code == 204
        assert sorted(asked.headers["allow"].split(", ")) == sorted(refused.headers["allow"].split(", "))


@pytest.mark.parametrize("path", ["/admin/nothing", "/admin/v2/tenants", "/admin//v1", "/admin/"])
async def test_what_is_not_there_is_nobody_s_to_keep_either(desk: Desk, path: str) -> None:
    reply = await desk.client.get(path)

    assert reply.status_code == 404
    assert reply.headers.get_list("cache-control") == ["no-store"]
    assert reply.headers.get_list("x-content-type-options") == ["nosniff"]


async def test_where_the_path_says_it_all_a_field_is_a_mistake(desk: Desk) -> None:
    assert set(faults(await desk.post("/backends/a/undrain", {"reason": "mended"}))) == {"#/reason"}
    assert (await desk.post("/backends/a/undrain", {})).status_code == 200


async def test_a_fault_of_the_whole_body_names_no_place(desk: Desk) -> None:
    reply = await desk.put(POLICY.format(await desk.tenant()), {"action": "clamp"})

    assert reply.json()["detail"].startswith("To clamp ")
