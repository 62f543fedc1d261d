"""Grants over HTTP: names and globs for a tenant and for its keys."""

from typing import Any

import asyncpg
import pytest

from tests.support.admin import Desk, faults, problem


async def granted(desk: Desk, holder: str, pattern: str) -> dict[str, Any]:
    """Grant a pattern and return the answer."""
    reply = await desk.post(f"{holder}/grants", {"pattern": pattern})
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


async def test_a_grant_is_told_in_its_one_spelling_and_found_again(desk: Desk) -> None:
    holder = f"/tenants/{await desk.tenant()}"

    made = await desk.post(f"{holder}/grants", {"pattern": " Llama3.2 "})
    found = await desk.get(f"{holder}/grants/{made.json()['id']}")

    assert (made.status_code, made.json()["pattern"], made.json()["keyId"]) == (201, "llama3.2:latest", None)
    assert made.headers["location"] == f"/admin/v1{holder}/grants/{made.json()['id']}"
    assert (found.json(), found.headers["etag"]) == (made.json(), made.headers["etag"])


async def test_a_grant_opens_a_model_and_taking_it_back_closes_it(desk: Desk) -> None:
    slug = await desk.tenant()
    key = (await desk.new_key(slug))["key"]

    async def models() -> list[str]:
        await desk.all_acted()
        reply = await desk.client.get("/api/tags", headers={"Authorization": f"Bearer {key}"})
        return [model["name"] for model in reply.json()["models"]]

    before = await models()
    grant = await granted(desk, f"/tenants/{slug}", "llama3*")
    opened = await models()
    gone = await desk.delete(f"/tenants/{slug}/grants/{grant['id']}")

    assert (before, opened, gone.status_code, gone.content) == ([], ["llama3.2:latest"], 204, b"")
    assert await models() == []
    problem(await desk.delete(f"/tenants/{slug}/grants/{grant['id']}"), 404, "not-found")


async def test_all_models_can_be_opened_to_a_key_and_be_left_to_its_grants_again(desk: Desk) -> None:
    slug = await desk.tenant()
    path = f"/tenants/{slug}/keys/{(await desk.new_key(slug))['summary']['prefix']}"
    await granted(desk, path, "qwen3:*")
    seen = (await desk.get(path)).headers["etag"]

    changed = await desk.patch(path, {"allowAllModels": True}, if_match=seen)
    rotated = (await desk.post(f"{path}/rotate", {})).json()
    again = await desk.patch(path, {"allowAllModels": None})

    assert [reply.json()["allowAllModels"] for reply in (changed, again)] == [True, None]
    assert rotated["summary"]["allowAllModels"] is True
    problem(await desk.patch(path, {"name": "late"}, if_match=seen), 412, "precondition-failed")


async def test_what_is_granted_is_not_granted_again(desk: Desk) -> None:
    holder = f"/tenants/{await desk.tenant()}"
    await granted(desk, holder, "llama3.2")

    problem(await desk.post(f"{holder}/grants", {"pattern": "LLAMA3.2:latest"}), 409, "conflict")


@pytest.mark.parametrize(
    "body",
    [
        *({"pattern": each} for each in ("", " ", "a b", "ü*", "[x]", "a\u0000", "x" * 641, None, 1)),
        {},
    ],
)
async def test_a_pattern_that_no_model_matches_is_refused(desk: Desk, body: dict[str, Any]) -> None:
    slug = await desk.tenant()

    assert set(faults(await desk.post(f"/tenants/{slug}/grants", body))) == {"#/pattern"}


async def test_lists_tell_one_level_or_the_tenant_with_its_keys(desk: Desk) -> None:
    slug = await desk.tenant()
    key = (await desk.new_key(slug))["summary"]
    tenant_path, key_path = f"/tenants/{slug}", f"/tenants/{slug}/keys/{key['prefix']}"
    own = [await granted(desk, tenant_path, name) for name in ("a:1", "b:*")]
    of_key = [await granted(desk, key_path, name) for name in ("a:1", "c:1")]

    listed = [
        (await desk.get(f"{path}/grants", **parameters)).json()["items"]
        for path, parameters in (
            (tenant_path, {}),
            (key_path, {}),
            (tenant_path, {"below": "true"}),
            (tenant_path, {"below": "true", "pattern": "A:1"}),
        )
    ]

    assert {grant["keyId"] for grant in of_key} == {key["id"]}
    assert listed == [own, of_key, [own[0], of_key[0], own[1], of_key[1]], [own[0], of_key[0]]]


async def test_lists_are_pages_that_leave_no_grant_out(desk: Desk) -> None:
    slug = await desk.tenant()
    keys = [(await desk.new_key(slug))["summary"]["id"] for _ in range(2)]
    for holder in (f"/tenants/{slug}", *(f"/tenants/{slug}/keys/{key}" for key in keys)):
        for name in ("a:1", "b:1"):
            await granted(desk, holder, name)

    seen: list[tuple[str, str | None]] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await desk.get(f"/tenants/{slug}/grants", below="true", limit=1, **cursor)).json()
        seen += [(each["pattern"], each["keyId"]) for each in page["items"]]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}

    assert seen == [(name, key) for name in ("a:1", "b:1") for key in (None, *sorted(keys))]


@pytest.mark.parametrize("name", ["x", "-1", "llama3.2:latest", "%00", "0" * 5000])
async def test_what_is_no_grant_s_id_is_not_found(desk: Desk, name: str) -> None:
    slug = await desk.tenant()

    problem(await desk.get(f"/tenants/{slug}/grants/{name}"), 404, "not-found")


async def test_a_damaged_grant_can_be_taken_back(desk: Desk, sql: asyncpg.Connection) -> None:
    slug = await desk.tenant()
    tenant = (await desk.get(f"/tenants/{slug}")).json()["id"]
    grant = await sql.fetchval(
        "INSERT INTO model_grants (tenant_id, pattern) VALUES ($1, 'No Model') RETURNING id", tenant
    )

    gone = await desk.delete(f"/tenants/{slug}/grants/{grant}")

    assert gone.status_code == 204
    assert await sql.fetchval("SELECT count(*) FROM model_grants WHERE tenant_id = $1", tenant) == 0
