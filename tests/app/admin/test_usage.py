"""Usage over HTTP: rows, sums and exports of what was asked for, and mistakes told by the parameter at fault."""

import json
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import asyncpg
import httpx
import pytest
from uuid_utils.compat import uuid7

from app.usage_export import PAGE_ROWS
from db.usage import UsageRows
from domain.usage import Admission, UsageRecord
from tests.support.admin import Desk, faults
from tests.support.gateway import Gateway
from tests.support.ledger_records import DAY, LOST, admission, settlement

SPAN = {"since": DAY.isoformat(), "until": (DAY + timedelta(days=2)).isoformat()}


class Tenant:
    """A tenant with three requests of two models on two days."""

    def __init__(self, slug: str, id_: UUID, key: dict[str, Any]) -> None:
        self.slug = slug
        self.id = id_
        self.key = key

    def admission(self, at: datetime, model: str = "m:1") -> Admission:
        """Build an admission of its key."""
        return admission(at, self.id, UUID(self.key["id"]), model)


@pytest.fixture
async def tenant(desk: Desk, gateway: Gateway) -> Tenant:
    slug = await desk.tenant()
    key = (await desk.new_key(slug))["summary"]
    tenant = Tenant(slug, UUID((await desk.get(f"/tenants/{slug}")).json()["id"]), key)
    await UsageRows(gateway.database.engine).insert_batch(
        [
            UsageRecord(tenant.admission(DAY), settlement(tokens_out=1)),
            UsageRecord(tenant.admission(DAY, "m:2"), settlement(LOST, 2, backend=None)),
            UsageRecord(tenant.admission(DAY + timedelta(days=1)), settlement(tokens_out=4)),
        ]
    )
    return tenant


async def test_rows_come_newest_first_by_pages(desk: Desk, tenant: Tenant) -> None:
    tokens: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await desk.get("/usage/rows", tenant=tenant.slug, limit=2, **SPAN, **cursor)).json()
        tokens += [row["tokensOut"] for row in page["items"]]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}

    assert tokens == [4, 2, 1]


async def test_a_row_tells_who_and_what(desk: Desk, tenant: Tenant) -> None:
    (row,) = (await desk.get("/usage/rows", key=tenant.key["prefix"], outcome="lost", **SPAN)).json()["items"]

    assert (row["tenant"], row["tenantId"]) == (tenant.slug, str(tenant.id))
    assert (row["key"], row["keyId"]) == (tenant.key["prefix"], tenant.key["id"])
    assert (row["model"], row["backend"], row["estimated"]) == ("m:2", None, True)
    assert (row["totalUs"], row["queueUs"]) == (2**40, None)


async def test_sums_join_groups_filters_and_a_time_zone(desk: Desk, tenant: Tenant) -> None:
    wanted = {"by": "day,model", "tenant": str(tenant.id), "timeZone": "Europe/Berlin", **SPAN}
    sums = (await desk.get("/usage/sums", **wanted)).json()

    assert [(line["day"], line["model"], line["tokensOut"]) for line in sums["lines"]] == [
        ("2031-05-31", "m:1", 1),
        ("2031-05-31", "m:2", 2),
        ("2031-06-01", "m:1", 4),
    ]
    assert {line["tenant"] for line in sums["lines"]} == {None}
    assert (sums["total"]["requests"], sums["total"]["tokensOut"], sums["total"]["busyUs"]) == (3, 7, 18)


async def test_without_groups_there_is_only_the_total(desk: Desk, tenant: Tenant) -> None:
    sums = (await desk.get("/usage/sums", by="", tenant=tenant.slug, backend="", **SPAN)).json()

    assert (sums["lines"], sums["total"]["requests"]) == ([], 1)


@pytest.mark.parametrize(
    ("form", "media_type"), [("ndjson", "application/x-ndjson"), ("csv", "text/csv; charset=utf-8")]
)
async def test_an_export_is_a_file_and_goes_on_from_a_cursor(
    desk: Desk, tenant: Tenant, form: str, media_type: str
) -> None:
    whole = await desk.get("/usage/export", format=form, tenant=tenant.slug, **SPAN)
    lines = whole.text.splitlines()
    rows = lines[len(lines) - 3 :]
    cursor = json.loads(rows[0])["cursor"] if form == "ndjson" else rows[0].rpartition(",")[2]

    rest = await desk.get("/usage/export", format=form, tenant=tenant.slug, cursor=cursor, **SPAN)

    assert whole.headers["content-type"] == media_type
    assert whole.headers["content-disposition"] == f'attachment; filename="usage.{form}"'
    assert rest.text.splitlines() == rows[1:]


async def test_an_export_that_breaks_off_ends_unfinished(
    desk: Desk, tenant: Tenant, gateway: Gateway, sql: asyncpg.Connection
) -> None:
    """The second page holds a time that no program here can read."""
    more = [
        UsageRecord(tenant.admission(DAY + timedelta(days=2)), settlement(LOST)) for _ in range(PAGE_ROWS)
    ]
    await UsageRows(gateway.database.engine).insert_batch(more)
    await sql.execute(
        "UPDATE usage_records SET outcome = 'cut', ended_at = '20000-01-01' WHERE request_id = $1",
        more[-1].admission.request_id,
    )
    path = f"/admin/v1/usage/export?tenant={tenant.slug}&until=2031-07-01T00:00:00Z"

    async with desk.client.stream("GET", path) as reply:
        with pytest.raises(httpx.RemoteProtocolError):
            await reply.aread()

    assert reply.status_code == 200


@pytest.mark.parametrize(
    ("path", "query", "at_fault"),
    [
        ("rows", {"tenant": "nobody"}, "tenant"),
        ("rows", {"key": "nng_00000000"}, "key"),
        ("sums", {"key": "not a key"}, "key"),
        ("rows", {"outcome": "fine"}, "outcome"),
        ("rows", {"since": "2031-01-02T00:00:00Z", "until": "2031-01-01T00:00:00Z"}, "since"),
        ("rows", {"until": "2031-01-01T00:00:00"}, "until"),
        ("rows", {"cursor": "W10"}, "cursor"),
        ("rows", {"model": ""}, "model"),
        ("sums", {"by": "tenant,tenant"}, "by"),
        ("sums", {"by": "hour,day"}, "by"),
        ("sums", {"by": "weekday"}, "by"),
        ("sums", {"timeZone": "Mars"}, "timeZone"),
        ("sums", {"timeZone": "\0"}, "timeZone"),
        ("export", {"format": "xml"}, "format"),
        ("export", {"cursor": str(uuid7())}, "cursor"),
        ("export", {"limit": "5"}, "limit"),
    ],
)
async def test_a_parameter_at_fault_is_told(
    desk: Desk, path: str, query: dict[str, str], at_fault: str
) -> None:
    reply = await desk.client.get(f"/admin/v1/usage/{path}?{urlencode(query)}")

    assert set(faults(reply)) == {at_fault}
