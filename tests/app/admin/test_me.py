"""Who am I."""

from tests.support.admin import Desk


async def test_a_caller_is_told_its_key_and_where_it_comes_from(desk: Desk) -> None:
    reply = await desk.get("/me")

    assert reply.status_code == 200
    me = reply.json()
    assert (me["address"], me["key"]["role"], me["key"]["name"], me["key"]["status"]) == (
        desk.address,
        "admin",
        "admin",
        "active",
    )
    assert desk.key is not None
    assert desk.key.startswith(me["key"]["prefix"] + "_")
    assert desk.key not in reply.text
    assert me["key"]["expiresAt"] is None
