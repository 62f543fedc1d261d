"""The same commands against a running gateway: in its database, and from elsewhere by its admin API."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from db.usage import UsageRows
from domain.jobs import USAGE_PRUNE
from domain.keys import mint
from domain.usage import UsageRecord
from domain.usage_report import UsageGroup
from domain.values import Role
from tests.app.cli.conftest import BothWays, CommandLine
from tests.support.admin import Desk, new_slug
from tests.support.admin_world import failing
from tests.support.gateway import Gateway
from tests.support.ledger_records import DAY, admission, record, settlement
from tests.support.scripted_backend import answer, scripted_backend


async def test_tenants_are_the_same_both_ways(both: BothWays, slug: str) -> None:
    listed = (await both.same("tenants", "list", "--json")).json["tenants"]

    assert slug in [each["slug"] for each in listed]
    assert f"{slug}  " in (await both.same("tenants", "list")).out


async def test_the_audit_log_is_the_same_and_names_the_admin_key(
    both: BothWays, slug: str, admin_key: str
) -> None:
    events = (await both.same("audit", "--tenant", slug, "--json")).json["events"]

    assert [(each["action"], each["actor"]) for each in events] == [("tenant.create", admin_key[:13])]
    assert (await both.same("audit", "--limit", "3")).out.count("\n") == 4


async def test_lists_longer_than_a_page_are_whole(both: BothWays, gateway: Gateway) -> None:
    async with gateway.database.engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO audit_events (id, at, actor, action, subject) SELECT gen_random_uuid(),"
                " now() - n * interval '1 second', 'test', 'test.paged', 'admin' FROM generate_series(1, 250) AS n"
            )
        )

    paged = ("audit", "--action", "test.paged", "--limit", "240", "--json")
    events = (await both.same(*paged)).json["events"]

    assert len({each["id"] for each in events}) == 240


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("tenants", "suspend", "nobody"), 1),
        (("tenants", "create", "Bad Slug"), 2),
        (("tenants", "create", "x", "--time-zone", "Mars"), 2),
        (("tenants", "create", "x", "--name", "two\nlines"), 2),
        (("tenants", "create", "x", "--name", "x" * 201), 2),
        (("keys", "create", "\x1b[2J", "--admin"), 2),
        (("keys", "create", "x" * 201, "--admin"), 2),
        (("keys", "rotate", "nng_00000000", "--overlap", "400d"), 2),
        (("backends", "drain", "a", "--reason", "a\ttab"), 2),
        (("keys", "revoke", "nng_00000000"), 1),
        (("keys", "create", "x", "--tenant", "nobody"), 1),
    ],
)
async def test_refusals_are_sentences_with_the_same_exit_code(
    both: BothWays, gateway: Gateway, words: tuple[str, ...], code: int
) -> None:
    here, there = await both.here(*words), await both.there(*words)
    hint = f" --url {gateway.url}"

    assert (here.code, there.code) == (code, code)
    assert here.refusal == there.refusal.replace(hint, "")


async def test_a_slug_that_is_taken_is_told_alike(both: BothWays, slug: str) -> None:
    again = ("tenants", "create", slug)

    assert (await both.there(*again)).refusal == (await both.here(*again)).refusal


async def test_admin_keys_are_looked_after_from_elsewhere_too(both: BothWays) -> None:
    created = (await both.there("keys", "create", "night", "--admin", "--json")).json["summary"]
    prefix = created["prefix"]

    listed = (await both.same("keys", "list", "--admin", "--json")).json["keys"]
    changed = await both.there("keys", "set", prefix, "--name", "day", "--json")
    rotated = await both.there("keys", "rotate", prefix, "--overlap", "0", "--json")
    successor = rotated.json["summary"]["prefix"]
    revoked = await both.there("keys", "revoke", successor, "--wait", "--json")
    again = await both.here("keys", "revoke", successor, "--json")

    assert created in listed
    assert (created["tenant"], created["role"]) == (None, "admin")
    assert changed.json["key"]["name"] == rotated.json["summary"]["name"] == "day"
    assert revoked.json["key"]["status"] == "revoked"
    assert (revoked.json["changed"], again.json["changed"]) == (True, False)


async def test_all_keys_are_listed_alike_and_found_by_their_prefixes_alone(both: BothWays, slug: str) -> None:
    created = (await both.here("keys", "create", "laptop", "--tenant", slug, "--json")).json["summary"]

    assert created in (await both.same("keys", "list", "--json")).json["keys"]
    for name in (created["prefix"], created["id"]):
        renamed = await both.there("keys", "set", name, "--name", name, "--json")
        assert (renamed.json["key"]["name"], renamed.json["key"]["tenant"]) == (name, slug)
    events = (await both.same("audit", "--key", created["prefix"], "--json")).json["events"]
    assert [each["action"] for each in events] == ["key.set", "key.set", "key.create"]


@pytest.mark.parametrize(
    "words",
    [
        ("keys", "create", "x", "--admin", "--allow-path"),
        ("keys", "revoke", "nnga_00000000"),
        ("keys", "set", "nnga_00000000", "--paths", "on"),
        ("jobs", "run", "usage.rollup"),
        ("jobs", "retry", "usage.rollup"),
    ],
)
async def test_what_no_key_or_job_can_do_is_told_alike(
    both: BothWays, gateway: Gateway, words: tuple[str, ...]
) -> None:
    here, there = await both.here(*words), await both.there(*words)

    assert here.code == there.code != 0
    assert here.refusal == there.refusal.replace(f" --url {gateway.url}", "")


async def test_the_key_may_stand_in_a_file_but_not_on_the_command_line(
    bare: CommandLine, gateway: Gateway, admin_key: str, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(f"{admin_key}\n")

    from_file = await bare("tenants", "list", "--url", gateway.url, "--admin-key-file", str(tmp_path / "key"))
    typed = await bare("tenants", "list", "--url", gateway.url, "--admin-key", admin_key)

    assert from_file.code == 0
    assert typed.code == 2


async def test_without_a_key_it_says_where_one_belongs(bare: CommandLine, gateway: Gateway) -> None:
    outcome = await bare("tenants", "list", "--url", gateway.url)

    assert outcome.code == 2
    assert "GATEWAY_ADMIN_KEY" in outcome.refusal
    assert "--admin-key-file" in outcome.refusal


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tenants", "list", "--admin-key-file", "/nonexistent"), "--admin-key-file must name a readable"),
        (("tenants", "list", "--state-dir", "state"), "give one of them"),
        (("config", "show", "--state-dir", "state"), "give one of them"),
        (("doctor",), "the gateway's own machine"),
        (("probe-ollama",), "the gateway's own machine"),
        (("config", "check"), "the gateway's own machine"),
        (("usage", "rebuild", "--since", "1d"), "the gateway's own machine"),
        (("usage", "reconcile"), "the gateway's own machine"),
    ],
    ids=lambda each: each if isinstance(each, str) else " ".join(each),
)
@pytest.mark.parametrize("url", [("--url", "http://127.0.0.1:1"), ("--url=http://127.0.0.1:1",)])
async def test_options_that_cannot_go_together(
    bare: CommandLine, words: tuple[str, ...], said: str, url: tuple[str, ...]
) -> None:
    outcome = await bare(*words, *url)

    assert outcome.code == 2
    assert said in outcome.refusal


async def test_a_key_nobody_has_is_refused_in_words(bare: CommandLine, gateway: Gateway) -> None:
    bare.set(GATEWAY_ADMIN_KEY=mint(Role.ADMIN).reveal())

    outcome = await bare("tenants", "list", "--url", gateway.url)

    assert outcome.code == 1
    assert "refused the admin key" in outcome.refusal


@pytest.mark.parametrize(
    "key", ["nnga_damaged", mint(Role.INFERENCE).reveal()], ids=["damaged", "of a tenant"]
)
async def test_what_is_no_admin_key_never_leaves(bare: CommandLine, key: str) -> None:
    bare.set(GATEWAY_ADMIN_KEY=key)

    outcome = await bare("tenants", "list", "--url", "http://127.0.0.1:1")

    assert outcome.code == 2
    assert key not in outcome.err


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("http://127.0.0.1:1", 1, "cannot be reached: connection refused"),
        ("http://127.0.0.1:1/gateway/", 1, "cannot be reached"),
        ("ftp://x", 2, "--url takes an address"),
        ("http://u:canary@x", 2, "takes no user name"),
        ("http://x:port", 2, "--url takes an address"),
    ],
)
async def test_an_address_that_leads_nowhere(bare: CommandLine, url: str, code: int, said: str) -> None:
    bare.set(GATEWAY_ADMIN_KEY=mint(Role.ADMIN).reveal())

    outcome = await bare("tenants", "list", "--url", url)

    assert outcome.code == code
    assert said in outcome.refusal
    assert "canary" not in outcome.refusal


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"items": 1}', b'{"items": [{"slug": 1}], "nextCursor": null}']
)
async def test_somebody_else_s_answer_is_told_as_such(bare: CommandLine, body: bytes) -> None:
    bare.set(GATEWAY_ADMIN_KEY=mint(Role.ADMIN).reveal())
    async with scripted_backend() as server:
        server.scripts |= {"/admin/v1/tenants?limit=200": answer(body)}
        outcome = await bare("tenants", "list", "--url", server.url)

    assert outcome.code == 1
    assert "no gateway of this release" in outcome.refusal


async def test_only_commands_about_a_gateway_elsewhere_take_an_address(bare: CommandLine) -> None:
    outcome = await bare("migrate", "--url", "http://127.0.0.1:1")

    assert outcome.code == 2


async def test_backends_are_the_same_both_ways(both: BothWays) -> None:
    (here,) = (await both.here("backends", "list", "--json")).json["backends"]
    (there,) = (await both.there("backends", "list", "--json")).json["backends"]

    volatile = {"polled_at", "last_ok_at"}
    assert {k: v for k, v in here.items() if k not in volatile} == {
        k: v for k, v in there.items() if k not in volatile
    }
    assert (here["name"], here["condition"], here["models"]) == ("a", "ok", ["llama3.2:latest"])
    assert (here["in_flight"], here["cooling_in"], here["drain"]) == (0, 0, None)


async def test_a_drained_backend_says_who_and_why_until_it_is_let_in(both: BothWays, admin_key: str) -> None:
    drained = await both.there("backends", "drain", "a", "--reason", "gets a new card", "--wait", "--json")
    again = await both.here("backends", "drain", "a", "--reason", "gets a new card", "--json")
    shown = await both.here("backends", "list")
    noted = (await both.same("audit", "--action", "backend.drain", "--limit", "1")).out.splitlines()[1]
    back = await both.here("backends", "undrain", "a", "--wait", "--json")

    assert (drained.json["changed"], drained.json["backend"]["effective"]) == (True, True)
    assert drained.json["backend"]["drain"]["by"] == admin_key[:13]
    assert again.json["changed"] is False
    assert "ok, drained" in shown.out
    assert "gets a new card" in shown.err
    assert "  backend:a  reason gets a new card  " in noted
    assert (back.json["changed"], back.json["backend"]["drain"], back.json["backend"]["effective"]) == (
        True,
        None,
        True,
    )


@pytest.mark.parametrize("words", [("drain", "nobody", "--reason", "x"), ("undrain", "nobody")])
async def test_an_unknown_backend_is_told_alike(
    both: BothWays, gateway: Gateway, words: tuple[str, ...]
) -> None:
    here, there = await both.here("backends", *words), await both.there("backends", *words)

    assert (here.code, there.code) == (1, 1)
    assert here.refusal == there.refusal.replace(f" --url {gateway.url}", "")


async def test_models_are_the_same_but_for_what_only_redis_knows(both: BothWays) -> None:
    here, there = await both.here("list-models", "--json"), await both.there("list-models", "--json")

    assert [each["models"] for each in here.json["backends"]] == [
        each["models"] for each in there.json["backends"]
    ]
    assert (there.json["union_count"], there.json["table"]["entries"], there.json["table"]["bytes"]) == (
        1,
        1,
        None,
    )
    assert "1 different model on 1 backend" in (await both.there("list-models")).out


@pytest.mark.parametrize("way", ["here", "there"])
async def test_jobs_are_listed_and_one_is_run_now(both: BothWays, way: str) -> None:
    ran = await getattr(both, way)("jobs", "run", "usage.roll_up", "--wait", "--json")
    listed = (await both.here("jobs", "list", "--json")).json
    jobs = {each["name"]: each for each in listed["jobs"]}

    assert ran.json["run"]["outcome"] == "complete"
    assert listed["workers"] == 1
    assert jobs["usage.roll_up"]["last_run"]["outcome"] == "complete"
    assert jobs["discovery.poll"]["next_run_at"] is not None
    assert "1 worker" in (await both.here("jobs", "list")).out
    elsewhere = (await both.there("jobs", "list", "--json")).json["jobs"]
    assert [each["name"] for each in elsewhere] == list(jobs)
    assert ran.json["run"] in [each["last_run"] for each in elsewhere]


@pytest.mark.parametrize("way", ["here", "there"])
async def test_a_job_is_retried_if_its_last_run_failed_and_the_audit_log_says_so(
    both: BothWays, gateway: Gateway, admin_key: str, way: str
) -> None:
    words = ("jobs", "retry", "usage.prune", "--wait")
    async with Desk(gateway, admin_key, "127.0.0.1") as desk:
        await failing(desk, USAGE_PRUNE)

    retried = await getattr(both, way)(*words)
    again = await getattr(both, way)(*words)

    assert (retried.code, retried.out) == (0, "usage.prune: complete.\n")
    assert (again.code, again.refusal) == (
        1,
        "The last run of usage.prune did not fail, so there is nothing to repeat.",
    )
    (event,) = (await both.same("audit", "--action", "job.retry", "--limit", "1", "--json")).json["events"]
    assert event["subject"] == "job:usage.prune"
    assert event["actor"].startswith("nnga_" if way == "there" else "cli:")


async def test_settings_are_those_of_the_gateway_that_answers(both: BothWays, gateway: Gateway) -> None:
    shown = (await both.there("config", "show", "--json")).json["settings"]

    settings = {each["name"]: each for each in shown}
    assert settings["GATEWAY_PORT"]["value"] == int(gateway.url.rpartition(":")[2])
    assert (settings["GATEWAY_KEY_PEPPER"]["value"], settings["GATEWAY_KEY_PEPPER"]["secret"]) == (None, True)
    assert {tuple(each["processes"]) for each in shown} == {("app",)}
    assert "GATEWAY_KEY_PEPPER  " in (await both.there("config", "show")).out


@pytest.fixture(scope="module")
async def ledger(gateway: Gateway) -> None:
    """Four requests of a May evening, and an hour later one more of another model."""
    later = UsageRecord(admission(DAY + timedelta(hours=1), model="other:1"), settlement())
    await UsageRows(gateway.database.engine).insert_batch([*(record() for _ in range(4)), later])


MAY = ("--since", "2031-05-01", "--until", "2031-05-31")


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("by", UsageGroup)
async def test_sums_are_the_same_both_ways(both: BothWays, by: UsageGroup) -> None:
    report = (await both.same("usage", "--by", by.value, *MAY, "--json")).json

    assert report["total"]["requests"] == sum(line["requests"] for line in report["lines"]) == 5


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("name", ["rows.ndjson", "rows.csv"])
async def test_an_export_is_the_same_both_ways_and_is_resumed_by_either(
    both: BothWays, tmp_path: Path, name: str
) -> None:
    here, there = tmp_path / f"here-{name}", tmp_path / f"there-{name}"
    await both.here("usage", "--export", str(here), *MAY)
    outcome = await both.there("usage", "--export", str(there), *MAY, "--json")
    whole = here.read_bytes()

    assert outcome.json["rows"] == 5
    assert there.read_bytes() == whole
    there.write_bytes(whole[: len(whole) // 2])
    assert (await both.there("usage", "--export", str(there), *MAY, "--resume")).code == 0
    assert there.read_bytes() == whole


async def test_a_proxy_of_the_environment_never_sees_the_key_of_a_plain_request(
    both: BothWays, bare: CommandLine
) -> None:
    async with scripted_backend() as proxy:
        bare.set(HTTP_PROXY=proxy.url, http_proxy=proxy.url, ALL_PROXY=proxy.url)

        assert (await both.there("tenants", "list")).code == 0

    assert proxy.requests == []


async def test_a_grant_that_is_not_there_is_named_alike(both: BothWays, gateway: Gateway) -> None:
    slug = new_slug()
    await both.here("tenants", "create", slug)
    words = ("policies", "set", "think", "strip", "--tenant", slug, "--model", "nope")
    here, there = await both.here(*words), await both.there(*words)

    assert "no grant 'nope:latest'" in here.refusal
    assert here.refusal == there.refusal.replace(f" --url {gateway.url}", "")
