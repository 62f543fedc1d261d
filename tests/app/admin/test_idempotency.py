"""A creation sent again under the same idempotency key happens once."""

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from tests.support.admin import Desk, new_slug, problem
from tests.support.gateway import Gateway


def some_key() -> str:
    return str(uuid4())


async def events(sql: asyncpg.Connection, slug: str) -> int:
    """Return how many tenants of this slug the audit log saw being made."""
    return int(
        await sql.fetchval(
            "SELECT count(*) FROM audit_events WHERE action = 'tenant.create' AND after->>'slug' = $1", slug
        )
    )


async def test_a_tenant_asked_for_twice_is_the_same_answer(desk: Desk, sql: asyncpg.Connection) -> None:
    once, slug = some_key(), new_slug()

    first = await desk.post("/tenants", {"slug": slug, "name": "Größe"}, once=once)
    await desk.patch(f"/tenants/{slug}", {"name": "Changed since"})
    again = await desk.raw(
        "POST", "/tenants", f'{{"name": "Größe", "slug": "{slug}"}}'.encode(), Idempotency_Key=once
    )

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    for header in ("location", "etag", "content-type"):
        assert first.headers[header] == again.headers[header]
    assert await events(sql, slug) == 1


async def test_creations_at_once_under_one_key_are_one(desk: Desk, sql: asyncpg.Connection) -> None:
    # The first round only opens the connections that the others need to meet.
    for _ in range(3):
        once, slug = some_key(), new_slug()

        replies = await asyncio.gather(*(desk.post("/tenants", {"slug": slug}, once=once) for _ in range(5)))

        assert {reply.status_code for reply in replies} == {201}
        assert len({reply.content for reply in replies}) == 1
        assert await events(sql, slug) == 1


async def test_a_key_s_text_is_told_once(desk: Desk, sql: asyncpg.Connection) -> None:
    slug, once = await desk.tenant(), some_key()

    first = await desk.post(f"/tenants/{slug}/keys", {"name": "laptop"}, once=once)
    again = await desk.post(f"/tenants/{slug}/keys", {"name": "laptop"}, once=once)

    problem(again, 409, "already-created")
    assert again.headers["location"] == first.headers["location"]
    assert (await desk.client.get(again.headers["location"])).json() == first.json()["summary"]
    assert len((await desk.get(f"/tenants/{slug}/keys")).json()["items"]) == 1
    (kept,) = await sql.fetch("SELECT * FROM remembered_creations WHERE idempotency_key = $1", once)
    assert kept["answer"] is None
    assert first.json()["key"].split("_")[2] not in str(kept)


@pytest.mark.parametrize("of_key", [False, True])
async def test_a_grant_asked_for_twice_is_the_same_answer(desk: Desk, *, of_key: bool) -> None:
    slug, once = await desk.tenant(), some_key()
    holder = f"/tenants/{slug}"
    if of_key:
        holder += f"/keys/{(await desk.new_key(slug))['summary']['prefix']}"

    first, again = [await desk.post(f"{holder}/grants", {"pattern": "llama3"}, once=once) for _ in range(2)]

    assert (first.status_code, again.status_code) == (201, 201)
    assert (again.content, again.headers["location"]) == (first.content, first.headers["location"])


async def test_another_request_under_the_same_key_is_refused(desk: Desk, sql: asyncpg.Connection) -> None:
    once, slug, other = some_key(), new_slug(), new_slug()
    await desk.post("/tenants", {"slug": slug}, once=once)

    replies = [
        await desk.post("/tenants", {"slug": other}, once=once),
        await desk.post("/tenants", {"slug": slug, "name": "Another"}, once=once),
        await desk.post(f"/tenants/{slug}/keys", {"name": "laptop"}, once=once),
        await desk.post(f"/tenants/{slug}/grants", {"pattern": "llama3"}, once=once),
    ]

    for reply in replies:
        problem(reply, 422, "idempotency-key-reused")
    assert await events(sql, other) == 0


async def test_a_refused_creation_leaves_its_key_free(desk: Desk) -> None:
    once, taken = some_key(), await desk.tenant()

    refused = await desk.post("/tenants", {"slug": taken}, once=once)
    made = await desk.post("/tenants", {"slug": new_slug()}, once=once)

    problem(refused, 409, "conflict")
    assert made.status_code == 201


async def test_two_operators_may_use_the_same_key(desk: Desk, gateway: Gateway, address: str) -> None:
    once = some_key()
    async with Desk(gateway, await gateway.admin_key(), address) as other:
        replies = [await each.post("/tenants", {"slug": new_slug()}, once=once) for each in (desk, other)]

    assert [reply.status_code for reply in replies] == [201, 201]
    assert replies[0].json()["slug"] != replies[1].json()["slug"]


@pytest.mark.parametrize("once", ["", "a b", "x" * 256, "\u00e9"])
async def test_a_key_that_is_none_is_refused(desk: Desk, once: str) -> None:
    reply = await desk.client.post(
        "/admin/v1/tenants",
        json={"slug": new_slug()},
        headers=[(b"Idempotency-Key", once.encode("latin-1"))],
    )

    assert [error["parameter"] for error in problem(reply, 400, "invalid-request")["errors"]] == [
        "Idempotency-Key"
    ]
