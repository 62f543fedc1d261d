"""Who gets in: one uniform refusal for everybody else, slowed for guessers, and every failure in the audit log."""

import asyncio
import itertools
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import asyncpg
import msgspec
import pytest

from app.admin.failed_logins import OWN_EVENTS_A_MINUTE
from app.admin.login_budget import BUDGET
from domain.keys import mint
from domain.tenants import Actor
from domain.values import Role
from tests.support.admin import API, Desk, problem, wait_for
from tests.support.gateway import Gateway

FAILED = "SELECT * FROM audit_events WHERE action = 'admin.login_failed' AND address = $1 ORDER BY at, id"


NOWHERE = ip_network("192.0.2.0/24")


def after_of(event: dict[str, Any]) -> dict[str, Any]:
    return dict(msgspec.json.decode(event["after"]))


def basic(key: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"anybody:{key}".encode()).decode()}


async def failures(sql: asyncpg.Connection, address: str, count: int = 1) -> list[dict[str, Any]]:
    """Return the audit events of an address's failed logins, once there are that many."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        found[:] = [dict(row) for row in await sql.fetch(FAILED, address)]
        return len(found) >= count

    await wait_for(there)
    return found


@pytest.fixture
def wrong_key() -> str:
    return mint(Role.ADMIN).reveal()


async def test_every_carrier_of_a_key_works(gateway: Gateway, admin_key: str) -> None:
    async with gateway.client() as client:
        for headers in (
            {"Authorization": f"Bearer {admin_key}"},
            {"Authorization": f"bearer {admin_key}"},
            {"x-api-key": admin_key},
            basic(admin_key),
            {"x-api-key": admin_key} | basic(admin_key),
        ):
            assert (await client.get(f"{API}/me", headers=headers)).status_code == 200


async def test_t27_whoever_is_refused_is_refused_in_the_same_words(gateway: Gateway, wrong_key: str) -> None:
    tenant = await gateway.tenant()
    revoked, expired, elsewhere = await keys_that_do_not_work(gateway)
    carriers: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer junk"},
        {"Authorization": "Digest x"},
        {"Authorization": f"Bearer {wrong_key}"},
        {"Authorization": f"Bearer {wrong_key}", "x-api-key": tenant.text},
        tenant.headers,
        {"x-api-key": tenant.text},
        basic(tenant.text),
        {"Authorization": f"Bearer {revoked}"},
        {"Authorization": f"Bearer {expired}"},
        {"Authorization": f"Bearer {elsewhere}"},
    ]
    said = set()
    async with gateway.client() as client:
        for number, headers in enumerate(carriers):
            # Each from an address of its own, so that nobody is slowed.
            from_ = {"X-Forwarded-For": f"203.0.113.{number + 1}"}
            reply = await client.get(f"{API}/tenants", headers=headers | from_)
            body = problem(reply, 401, "unauthenticated")
            assert reply.headers["www-authenticate"] == "Bearer"
            said.add((body["title"], body["detail"], "errors" in body, reply.headers["content-length"]))

    assert len(said) == 1


async def keys_that_do_not_work(gateway: Gateway) -> list[str]:
    """Return admin keys that are revoked, expired, and bound to a network nobody calls from."""
    peppers, far = gateway.peppers, datetime.now(UTC) - timedelta(seconds=1)
    async with gateway.database.unit_of_work(Actor("test")) as work:
        keys = work.keys(None)
        revoked = await keys.create("revoked", peppers=peppers)
        await keys.revoke(revoked.summary.prefix)
        expired = await keys.create("expired", peppers=peppers, expires_at=far)
        elsewhere = await keys.create("elsewhere", peppers=peppers, allowed_networks=[NOWHERE])
    return [each.minted.reveal() for each in (revoked, expired, elsewhere)]


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("path", ["/me", "/nothing", "/tenants/x/keys/y/revoke"])
async def test_nothing_is_told_before_a_key_is_proven(gateway: Gateway, method: str, path: str) -> None:
    async with gateway.client() as client:
        reply = await client.request(method, API + path, content=b"{")

    assert reply.status_code == 401
    assert reply.headers["content-type"] == "application/problem+json"
    assert bool(reply.content) == (method != "HEAD")


async def test_t27_an_admin_key_is_no_tenant_s(gateway: Gateway, admin_key: str, wrong_key: str) -> None:
    async with gateway.client() as client:
        own = await client.get("/api/tags", headers={"Authorization": f"Bearer {admin_key}"})
        unknown = await client.get("/api/tags", headers={"Authorization": f"Bearer {wrong_key}"})

    assert (own.status_code, own.json()) == (401, unknown.json())


async def test_a_revoked_admin_key_stops_at_once(gateway: Gateway, admin_key: str, address: str) -> None:
    async with gateway.database.unit_of_work(Actor("test")) as work:
        issued = await work.keys(None).create("short-lived", peppers=gateway.peppers)
    async with (
        Desk(gateway, issued.minted.reveal(), address) as desk,
        Desk(gateway, admin_key, address) as other,
    ):
        assert (await desk.get("/me")).status_code == 200

        async with gateway.database.unit_of_work(Actor("test")) as work:
            await work.keys(None).revoke(issued.minted.prefix)
        await other.all_acted()

        problem(await desk.get("/me"), 401, "unauthenticated")


async def test_failures_tell_the_audit_log_what_they_do_not_tell_the_caller(
    gateway: Gateway, sql: asyncpg.Connection, address: str, wrong_key: str
) -> None:
    revoked, expired, elsewhere = await keys_that_do_not_work(gateway)
    tenant = await gateway.tenant()
    presented = [wrong_key, revoked, expired, elsewhere, tenant.text]
    async with Desk(gateway, None, address) as desk:
        replies = [await desk.with_key(key) for key in presented]

    events = await failures(sql, address, len(presented))
    assert [after["reason"] for after in map(after_of, events)] == [
        "unknown",
        "revoked",
        "expired",
        "network",
        "tenant_key",
    ]
    assert [event["actor"] for event in events] == ["_".join(key.split("_")[:2]) for key in presented]
    assert [str(event["request_id"]) for event in events] == [
        reply.headers["x-request-id"] for reply in replies
    ]
    assert [event["subject"] == "admin" for event in events] == [True, False, False, False, False]
    told = "".join(str(event) for event in events) + gateway.app.log()
    assert not any(key in told or key.split("_")[2] in told for key in presented)


async def test_what_is_no_key_at_all_has_no_name_in_the_audit_log(
    gateway: Gateway, sql: asyncpg.Connection, address: str
) -> None:
    async with Desk(gateway, None, address) as desk:
        await desk.with_key("secret-of-something-else")

    (event,) = await failures(sql, address)
    assert (event["actor"], event["subject"], after_of(event)["reason"]) == ("unknown", "admin", "malformed")
    assert "secret-of" not in str(event)


async def test_presenting_nothing_is_no_login(
    gateway: Gateway, sql: asyncpg.Connection, address: str
) -> None:
    async with Desk(gateway, None, address) as desk:
        for _ in range(BUDGET + 1):
            problem(await desk.get("/me"), 401, "unauthenticated")
        await desk.with_key("x")

    assert len(await failures(sql, address)) == 1


async def test_t26_too_many_wrong_keys_make_an_address_wait(gateway: Gateway, address: str) -> None:
    async with Desk(gateway, None, address) as desk:
        wrong = [await desk.with_key(mint(Role.ADMIN).reveal()) for _ in range(BUDGET)]
        late = await desk.with_key(mint(Role.ADMIN).reveal())

    assert {reply.status_code for reply in wrong} == {401}
    problem(late, 429, "too-many-logins")
    assert 800 < int(late.headers["retry-after"]) <= 900


async def test_t26_a_right_key_waits_too_or_waiting_would_stop_nobody(
    gateway: Gateway, admin_key: str, address: str
) -> None:
    async with Desk(gateway, None, address) as desk:
        for _ in range(BUDGET):
            await desk.with_key(mint(Role.ADMIN).reveal())

        problem(await desk.with_key(admin_key), 429, "too-many-logins")


async def test_nobody_is_locked_out_by_a_neighbour(gateway: Gateway, admin_key: str, address: str) -> None:
    async with Desk(gateway, admin_key, address) as desk:
        assert (await desk.get("/me")).status_code == 200
        for _ in range(2 * BUDGET):
            await desk.with_key(mint(Role.ADMIN).reveal())

        assert (await desk.get("/me")).status_code == 200
        problem(await desk.with_key(mint(Role.ADMIN).reveal()), 429, "too-many-logins")


async def test_t26_a_thousand_tries_at_once_are_no_more_than_the_budget(
    gateway: Gateway, address: str
) -> None:
    async with Desk(gateway, None, address) as desk:
        replies = await asyncio.gather(*(desk.with_key(mint(Role.ADMIN).reveal()) for _ in range(100)))

    statuses = [reply.status_code for reply in replies]
    assert statuses.count(401) == BUDGET
    assert statuses.count(429) == len(statuses) - BUDGET


async def test_the_first_requests_of_a_new_client_may_all_come_at_once(
    gateway: Gateway, admin_key: str, address: str
) -> None:
    async with Desk(gateway, admin_key, address) as desk:
        replies = await asyncio.gather(*(desk.get("/me") for _ in range(8 * BUDGET)))

    assert {reply.status_code for reply in replies} == {200}


async def test_t26_an_ipv6_site_is_one_address(gateway: Gateway, address: str) -> None:
    site = f"2001:db8:{address.rpartition('.')[2]}:1"
    async with gateway.client() as client:

        async def status(host: str) -> int:
            key = mint(Role.ADMIN).reveal()
            headers = {"X-Forwarded-For": host, "Authorization": f"Bearer {key}"}
            return (await client.get(f"{API}/me", headers=headers)).status_code

        same = [await status(f"{site}::{number}") for number in range(1, BUDGET + 2)]
        other = await status(f"{site[:-1]}2::1")

    assert same == [401] * BUDGET + [429]
    assert other == 401


async def test_a_forged_address_does_not_help(gateway: Gateway, address: str) -> None:
    async with gateway.client() as client:
        statuses = [
            (
                await client.get(
                    f"{API}/me",
                    headers={"X-Forwarded-For": f"198.51.100.{number}, {address}", "x-api-key": "wrong"},
                )
            ).status_code
            for number in range(BUDGET + 1)
        ]

    assert statuses == [401] * BUDGET + [429]


async def test_a_flood_has_few_events_and_is_counted_whole(
    gateway: Gateway, sql: asyncpg.Connection, address: str
) -> None:
    probes = itertools.count(1)

    async def others_left_room() -> bool:
        """Tell whether the events that all addresses have together in this minute are not used up yet."""
        had = (await noted(gateway))["alone"]
        for number in itertools.islice(probes, OWN_EVENTS_A_MINUTE):
            async with Desk(gateway, None, f"203.0.113.{number}") as other:
                await other.with_key("wrong")
        return (await noted(gateway))["alone"] == had + OWN_EVENTS_A_MINUTE

    await wait_for(others_left_room, within_s=70)
    before = await noted(gateway)
    async with Desk(gateway, None, address) as desk:
        for _ in range(5):
            await asyncio.gather(*(desk.with_key("wrong") for _ in range(20)))

    after = await noted(gateway)
    alone = after["alone"] - before["alone"]
    # The minute may have ended meanwhile, and then a second one began.
    assert OWN_EVENTS_A_MINUTE <= alone <= 2 * OWN_EVENTS_A_MINUTE
    assert after["together"] - before["together"] == 100 - alone
    assert after["lost"] == before["lost"]
    told = [after_of(event) for event in await failures(sql, address, int(alone))]
    assert {event["reason"] for event in told if event["attempts"] == 1} == {"malformed", "slowed"}


async def noted(gateway: Gateway) -> dict[str, float]:
    series = await gateway.metrics()
    name = 'nng_admin_failed_logins_total{{noted="{}"}}'
    return {how: series.get(name.format(how), 0.0) for how in ("alone", "together", "lost")}
