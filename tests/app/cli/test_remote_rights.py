"""What tenants and keys may do, set from elsewhere: the same as in the database."""

import pytest

from tests.app.cli.conftest import BothWays
from tests.support.gateway import Gateway


async def new_key(both: BothWays, slug: str, *words: str) -> str:
    created = await both.there("keys", "create", "laptop", "--tenant", slug, *words)
    assert created.code == 0, created.err
    return created.out.strip()


async def test_a_tenant_is_changed_suspended_and_let_in_again(both: BothWays, slug: str) -> None:
    changed = await both.there("tenants", "set", slug, "--name", "Lab", "--all-models", "on", "--json")
    suspended = await both.there("tenants", "suspend", slug, "--wait", "--json")
    again = await both.there("tenants", "suspend", slug, "--json")
    activated = await both.there("tenants", "activate", slug)

    assert (changed.json["tenant"]["name"], changed.json["changed"]) == ("Lab", True)
    assert suspended.json["tenant"]["status"] == "suspended"
    assert suspended.json["confirmation"]["missing"] == []
    assert len(suspended.json["confirmation"]["confirmed"]) == 1
    assert again.json["changed"] is False
    assert "is active" in activated.out


async def test_a_key_made_elsewhere_works_is_changed_rotated_and_revoked(
    both: BothWays, gateway: Gateway, slug: str
) -> None:
    await both.here("tenants", "set", slug, "--all-models", "on")
    text = await new_key(both, slug, "--network", "127.0.0.0/8")
    prefix = text[:12]
    works = await asked(gateway, text)
    renamed = await both.there("keys", "set", prefix, "--name", "desk", "--expires", "2099-06-30", "--json")
    rotated = await both.there("keys", "rotate", prefix, "--overlap", "1h", "--json")
    revoked = await both.there("keys", "revoke", prefix, "--wait", "--json")

    assert works == 200
    assert renamed.json["key"] == (await both.here("keys", "list", "--tenant", slug, "--json")).json["keys"][
        0
    ] | {
        "status": "active",
        "expires_at": "2099-07-01T00:00:00Z",
    }
    assert rotated.json["summary"]["rotated_from"] == rotated.json["replaced"]["id"]
    assert (revoked.json["changed"], revoked.json["confirmation"]["missing"]) == (True, [])
    assert await asked(gateway, text) == 401
    assert await asked(gateway, rotated.json["key"]) == 200
    assert len((await both.same("keys", "list", "--tenant", slug, "--json")).json["keys"]) == 2


async def asked(gateway: Gateway, key: str) -> int:
    async with gateway.client() as client:
        return (await client.get("/api/tags", headers={"Authorization": f"Bearer {key}"})).status_code


async def test_limits_are_set_shown_and_cleared_alike(both: BothWays, slug: str) -> None:
    key = (await new_key(both, slug))[:12]
    words = ("--tenant", slug, "--key", key)
    tenant = await both.there("limits", "set", "--tenant", slug, "--concurrency", "2", "--json")
    of_key = await both.there("limits", "set", *words, "--tokens-per-day", "1000", "--json")
    again = await both.there("limits", "set", *words, "--tokens-per-day", "1000", "--json")

    shown = (await both.same("limits", "show", "--tenant", slug, "--json")).json["tenants"][0]["limits"]
    cleared = await both.there("limits", "clear", *words, "--json")
    nothing = await both.there("limits", "clear", *words)

    assert (tenant.json["changed"], of_key.json["changed"], again.json["changed"]) == (True, True, False)
    assert [(each["key"], each["concurrency"], each["tokens_per_day"]) for each in shown] == [
        (None, 2, None),
        (key, None, 1000),
    ]
    assert cleared.json["changed"] is True
    assert nothing.code == 1
    assert "has no limits" in nothing.refusal


async def test_grants_are_given_shown_and_taken_back_alike(both: BothWays, slug: str) -> None:
    key = (await new_key(both, slug))[:12]
    given = await both.there("models", "allow", "llama3*", "--tenant", slug, "--json")
    again = await both.there("models", "allow", "llama3*", "--tenant", slug, "--json")
    await both.there("models", "allow", "llama3.2", "--tenant", slug, "--key", key)

    listed = (await both.same("models", "list", "--tenant", slug, "--json")).json["tenants"][0]["grants"]
    of_key = (await both.same("models", "list", "--tenant", slug, "--key", key)).out
    gone = await both.there("models", "disallow", "llama3*", "--tenant", slug, "--json")
    never = await both.there("models", "disallow", "llama3*", "--tenant", slug)

    assert (given.json["changed"], again.json["changed"]) == (True, False)
    assert [(each["pattern"], each["key"]) for each in listed] == [
        ("llama3*", None),
        ("llama3.2:latest", key),
    ]
    assert "llama3.2:latest" in of_key
    assert gone.json == {
        "tenant": slug,
        "key": None,
        "pattern": "llama3*",
        "changed": True,
        "grants_left": [],
    }
    assert never.code == 1


async def test_policies_are_set_shown_and_cleared_alike(both: BothWays, slug: str) -> None:
    key = (await new_key(both, slug))[:12]
    await both.there("models", "allow", "llama3.2", "--tenant", slug)
    clamp = ("policies", "set", "num_predict", "clamp", "--max", "2048", "--value", "512", "--tenant", slug)
    of_key = ("policies", "set", "think", "strip", "--tenant", slug, "--key", key)
    of_grant = (
        "policies",
        "set",
        "num_ctx",
        "set",
        "--value",
        "8192",
        "--tenant",
        slug,
        "--model",
        "llama3.2",
    )
    changes = [
        (await both.there(*words, "--json")).json["changed"] for words in (clamp, of_key, of_grant, clamp)
    ]

    rules = (await both.same("policies", "list", "--tenant", slug, "--json")).json["tenants"][0]["rules"]
    only = (await both.same("policies", "list", "--tenant", slug, "--key", key, "--json")).json
    cleared = await both.there("policies", "clear", "num_predict", "--tenant", slug, "--json")
    missing = ("policies", "set", "num_ctx", "strip", "--tenant", slug, "--model", "gone")
    here, there = await both.here(*missing), await both.there(*missing)

    assert changes == [True, True, True, False]
    assert {(each["field"], each["key"], each["model"], each["action"]) for each in rules} == {
        ("num_predict", None, None, "clamp"),
        ("think", key, None, "strip"),
        ("num_ctx", None, "llama3.2:latest", "set"),
    }
    assert len(only["tenants"][0]["rules"]) == 1
    assert cleared.json["changed"] is True
    assert (here.code, there.code) == (1, 1)
    assert "has no grant" in there.refusal


@pytest.mark.parametrize(
    "words",
    [
        ("limits", "set", "--concurrency", "1"),
        ("limits", "clear"),
        ("limits", "show"),
        ("models", "allow", "x"),
        ("models", "disallow", "x"),
        ("models", "list"),
        ("policies", "set", "think", "strip"),
        ("policies", "clear", "think"),
        ("policies", "list"),
    ],
    ids=" ".join,
)
async def test_a_key_of_somebody_else_is_unknown_alike(
    both: BothWays, gateway: Gateway, slug: str, words: tuple[str, ...]
) -> None:
    elsewhere = ("--tenant", slug, "--key", "nng_00000000")

    here, there = await both.here(*words, *elsewhere), await both.there(*words, *elsewhere)

    assert (here.code, there.code) == (1, 1)
    assert here.refusal == there.refusal.replace(f" --url {gateway.url}", "")


async def test_everything_about_a_tenant_is_shown_alike(both: BothWays, slug: str) -> None:
    await new_key(both, slug)
    await both.there("limits", "set", "--tenant", slug, "--concurrency", "2")
    await both.there("models", "allow", "llama3*", "--tenant", slug)

    shown = await both.same("tenants", "show", slug, "--json")

    assert set(shown.json) == {"tenant", "limits", "grants", "keys"}


async def test_a_key_for_paths_is_made_and_changed_alike(both: BothWays, slug: str) -> None:
    key = (await new_key(both, slug, "--allow-path"))[:12]
    made = (await both.same("keys", "list", "--tenant", slug, "--json")).json["keys"][0]
    changed = await both.there("keys", "set", key, "--paths", "off", "--json")

    assert made["path_allowed"] is True
    assert (changed.json["changed"], changed.json["key"]["path_allowed"]) == (True, False)
