"""Backends over HTTP: what they are like now, and who took one out of service."""

import asyncpg
import pytest

from tests.support.admin import Desk, faults, problem
from tests.support.gateway import Gateway


async def undrained(desk: Desk) -> None:
    """Let the one backend back in."""
    reply = await desk.post("/backends/a/undrain", wait="true")
    assert (reply.json()["drained"], reply.json()["effective"]) == (False, True), reply.text


async def test_a_backend_tells_all_there_is_to_it(desk: Desk, gateway: Gateway) -> None:
    page = (await desk.get("/backends")).json()

    (backend,) = page["items"]
    times = [backend.pop(name) for name in ("lastPollAt", "lastAnswerAt")]
    assert backend == {
        "name": "a",
        "address": gateway.backends["a"].url,
        "hasToken": False,
        "allowCloud": False,
        "condition": "ok",
        "reachable": True,
        "error": None,
        "version": backend["version"],
        "models": ["llama3.2:latest"],
        "loadedModels": backend["loadedModels"],
        "inFlight": 0,
        "maxInFlight": None,
        "coolingIn": 0,
        "drained": False,
        "drain": None,
        "effective": True,
    }
    assert times[1] <= times[0] <= page["tableWrittenAt"]
    assert (page["processes"], page["nextCursor"]) == (1, None)
    assert (await desk.get("/backends/a")).json().keys() == backend.keys() | {"lastPollAt", "lastAnswerAt"}


async def test_a_drain_says_who_and_why_and_is_effective_when_it_is_waited_for(desk: Desk) -> None:
    try:
        drained = (await desk.post("/backends/a/drain", {"reason": "a new card"}, wait="true")).json()

        assert (drained["drained"], drained["effective"]) == (True, True)
        assert (drained["drain"]["by"], drained["drain"]["reason"]) == (desk.prefix, "a new card")
        assert (await desk.get("/backends/a")).json()["drain"] == drained["drain"]
        (model,) = (await desk.get("/models")).json()["items"]
        assert (model["listed"], model["hosts"][0]["drained"]) == (False, True)
    finally:
        await undrained(desk)


async def test_a_drain_and_its_end_are_audited_once(desk: Desk, sql: asyncpg.Connection) -> None:
    for _ in range(2):
        await desk.post("/backends/a/drain", {"reason": "audited"})
    for _ in range(2):
        await undrained(desk)

    found = await sql.fetch(
        "SELECT action FROM audit_events WHERE subject = 'backend:a' AND"
        " (before->>'reason' = 'audited' OR after->>'reason' = 'audited') ORDER BY at"
    )
    assert [row[0] for row in found] == ["backend.drain", "backend.undrain"]


async def test_another_reason_replaces_the_first(desk: Desk) -> None:
    await desk.post("/backends/a/drain", {"reason": "one"})

    second = (await desk.post("/backends/a/drain", {"reason": "two"})).json()

    await undrained(desk)
    assert second["drain"]["reason"] == "two"


@pytest.mark.parametrize("method", ["get", "drain", "undrain"])
async def test_a_backend_nobody_configured_is_unknown(desk: Desk, method: str) -> None:
    path = "/backends/b" if method == "get" else f"/backends/b/{method}"
    body = {"reason": "x"} if method == "drain" else None

    reply = await (desk.get(path) if method == "get" else desk.post(path, body))

    problem(reply, 404, "not-found")


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 501])
async def test_a_reason_has_something_to_read(desk: Desk, reason: str) -> None:
    assert set(faults(await desk.post("/backends/a/drain", {"reason": reason}))) == {"#/reason"}


async def test_pages_of_backends_and_models_end(desk: Desk) -> None:
    for path in ("/backends", "/models"):
        page = (await desk.get(path, limit=1)).json()
        assert (len(page["items"]), page["nextCursor"]) == (1, None)


async def test_a_model_tells_who_hosts_it(desk: Desk) -> None:
    (model,) = (await desk.get("/models")).json()["items"]

    (host,) = model["hosts"]
    assert (model["name"], model["listed"], model["digestsDiffer"]) == ("llama3.2:latest", True, False)
    assert (host["backend"], host["condition"], host["coolingIn"]) == ("a", "ok", 0)
    assert len(host["digest"]) == 64
