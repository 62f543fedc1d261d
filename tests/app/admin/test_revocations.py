"""How far processes follow revocations, over HTTP."""

from tests.support.admin import Desk


async def test_the_lag_names_every_process_and_how_far_it_is(desk: Desk) -> None:
    slug = await desk.tenant()
    key = (await desk.new_key(slug))["summary"]
    before = (await desk.get("/revocations/lag")).json()

    await desk.post(f"/tenants/{slug}/keys/{key['id']}/revoke", wait="true")
    after = (await desk.get("/revocations/lag")).json()

    assert after["newest"] == before["newest"] + 1
    assert after["redisReachable"]
    (process,) = after["processes"]
    assert (process["seq"], process["behind"]) == (after["newest"], 0)
    assert after["epoch"] <= after["newest"]
