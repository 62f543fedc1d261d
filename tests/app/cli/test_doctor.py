"""`doctor` against real stores, in which one thing at a time is wrong."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest
from redis.asyncio import Redis

from app.cli.doctor import examine
from db.redis.model_table_write import ModelTableWriter
from domain.backends import BackendSpec, config_digest
from domain.model_table import BackendCondition, BackendState, HostedModel
from tests.app.cli.conftest import PEPPER, CommandLine

TOKEN = "0123456789abcdef0123456789abcdef"
NOTHING_WRONG = {
    "GATEWAY_METRICS_TOKEN": TOKEN,
    "GATEWAY_TRUSTED_PROXIES": "127.0.0.1",
    "GATEWAY_SURFACES": "tenant,ops",
}


def state(name: str, *models: str, digest: str = "aa", version: str = "0.33.0") -> BackendState:
    spec = BackendSpec(name=name, base_url=f"http://127.0.0.1:1/{name}")
    return BackendState(
        name,
        config_digest(spec),
        BackendCondition.OK,
        tuple(HostedModel(model, digest, 1, "2031-05-30T12:00:00Z") for model in models),
        version=version,
        last_ok_at=datetime.now(UTC),
        polled_at=datetime.now(UTC),
    )


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def well(cli: CommandLine, redis: Redis) -> CommandLine:
    """Give a command line for a gateway in which nothing is wrong."""
    cli.set(**NOTHING_WRONG, OLLAMA_BACKENDS=json.dumps([{"name": "a", "base_url": "http://127.0.0.1:1/a"}]))
    await poll(redis, state("a", "llama3.2:latest"))
    return cli


async def poll(redis: Redis, *states: BackendState) -> None:
    """Store a table as the worker would."""
    before = int(await redis.get("nng:models:version") or 0)
    assert await ModelTableWriter(redis).replace(states, based_on=before, now=datetime.now(UTC))


async def found(cli: CommandLine, *, code: int = 0) -> dict[str, dict[str, str]]:
    """Return the findings by their kinds."""
    outcome = await cli("doctor", "--json")
    assert outcome.code == code, outcome.out + outcome.err
    report = json.loads(outcome.out)
    assert report["ok"] == (code == 0)
    return {each["kind"]: each for each in report["findings"]}


async def test_a_gateway_in_order_has_no_findings_and_every_check_was_made(well: CommandLine) -> None:
    report = (await well.good("doctor", "--json")).json

    assert report["findings"] == []
    assert report["not_checked"] == []
    assert len(report["checked"]) == 8
    assert (await well.good("doctor")).out == "Nothing is wrong.\n"


async def test_a_finding_says_what_why_and_what_to_do(well: CommandLine, redis: Redis) -> None:
    await poll(redis, state("a", "llama3.2:latest", version="0.5.0"))

    outcome = await well("doctor")

    assert outcome.code == 1
    what, why, do, *_ = outcome.out.splitlines()
    assert what.startswith("ERROR  Backend a runs Ollama 0.5.0")
    assert why.startswith("  Why: ")
    assert do.startswith("  Do:  ")
    assert outcome.out.endswith("1 error.\n")


async def test_one_tag_of_two_digests(well: CommandLine, redis: Redis) -> None:
    well.set(
        OLLAMA_BACKENDS=json.dumps(
            [{"name": name, "base_url": f"http://127.0.0.1:1/{name}"} for name in ("a", "b")]
        )
    )
    await poll(redis, state("a", "llama3.2:latest"), state("b", "llama3.2:latest", digest="bb"))

    assert (await found(well)).keys() == {"digest-skew"}


async def test_a_worker_that_polls_other_backends(well: CommandLine, redis: Redis) -> None:
    await poll(redis, state("other", "llama3.2:latest"))

    assert (await found(well, code=1)).keys() == {"backends-differ"}


async def test_a_granted_model_that_nobody_hosts(well: CommandLine) -> None:
    await well.good("tenants", "create", "research")
    await well.good("models", "allow", "llama3.2", "--tenant", "research")
    await well.good("models", "allow", "gone", "--tenant", "research")

    findings = await found(well)

    assert findings.keys() == {"model-missing"}
    assert findings["model-missing"]["where"] == "gone:latest"


async def test_grants_of_suspended_tenants_and_of_ended_keys_count_for_nothing(well: CommandLine) -> None:
    await well.good("tenants", "create", "research")
    key = (await well.good("keys", "create", "laptop", "--tenant", "research")).out[:12]
    await well.good("models", "allow", "gone", "--tenant", "research", "--key", key)
    assert (await found(well)).keys() == {"model-missing"}

    await well.good("keys", "revoke", key)
    after_the_key = await found(well)
    await well.good("models", "allow", "gone", "--tenant", "research")
    await well.good("tenants", "suspend", "research")

    assert after_the_key == {}
    assert await found(well) == {}


async def test_a_model_that_is_loaded_again_and_again(well: CommandLine, sql: asyncpg.Connection) -> None:
    await sql.execute("SELECT make_usage_partition(date_trunc('month', now())::date)")
    await add_requests(sql, 6, load_us=4_000_000)
    await add_requests(sql, 6, load_us=90_000, model="warm:latest")

    findings = await found(well)

    assert findings.keys() == {"cold-loads"}
    assert findings["cold-loads"]["where"] == "llama3.2:latest on a"
    assert "6 times for 6 requests" in findings["cold-loads"]["what"]


async def add_requests(
    sql: asyncpg.Connection, number: int, *, load_us: int, model: str = "llama3.2:latest"
) -> None:
    at = datetime.now(UTC)
    await sql.executemany(
        "INSERT INTO usage_records (period, request_id, tenant_id, key_id, model, model_digest, api_family, route,"
        " backend, attempts, attempted_backends, outcome, tokens_in, tokens_out, estimated, load_us, prompt_us,"
        " eval_us, started_at, ended_at) VALUES ($1, $2, $3, $3, $4, 'aa', 'native', '/api/chat', 'a', 1, '{a}',"
        " 'completed', 1, 1, false, $5, 1000000, 1000000, $6, $6)",
        [(at.date().replace(day=1), uuid4(), uuid4(), model, load_us, at) for _ in range(number)],
    )


async def test_a_redis_that_evicts(well: CommandLine, redis: Redis) -> None:
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        findings = await found(well, code=1)
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")

    assert findings.keys() == {"redis-evicts"}
    assert "allkeys-lru" in findings["redis-evicts"]["what"]


@pytest.mark.usefixtures("well")
@pytest.mark.parametrize(("ahead_s", "level"), [(5, "warning"), (-60, "error")])
async def test_clocks_that_are_apart(database_url: str, redis_url: str, ahead_s: int, level: str) -> None:
    """The clock that is wrong is that of this machine: then both stores' are apart from it."""
    environ = NOTHING_WRONG | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "GATEWAY_KEY_PEPPER": PEPPER,
        "OLLAMA_BASE_URL": "http://127.0.0.1:1",
    }

    async def resolve(_: str) -> list[str]:
        return ["127.0.0.1"]

    examination = await examine(
        environ, now=lambda: datetime.now(UTC) + timedelta(seconds=ahead_s), resolve=resolve
    )

    skewed = [each for each in examination.findings if each.kind == "clock-skew"]
    assert sorted((each.where, each.level.value) for each in skewed) == [
        ("Postgres", level),
        ("Redis", level),
    ]
    assert all(("behind" if ahead_s > 0 else "ahead of") in each.what for each in skewed)


async def test_a_proxy_that_does_not_resolve(well: CommandLine) -> None:
    well.set(GATEWAY_TRUSTED_PROXIES="127.0.0.1,proxy.invalid")

    assert (await found(well)).keys() == {"proxy-unresolved"}


async def test_weak_settings_are_found_and_their_values_never_shown(well: CommandLine) -> None:
    well.set(GATEWAY_METRICS_TOKEN="canary", GATEWAY_PATH_KEYS="true", GATEWAY_TRUSTED_PROXIES="0.0.0.0/0")

    outcome = await well("doctor", "--json")

    assert outcome.code == 1
    assert {each["kind"] for each in json.loads(outcome.out)["findings"]} == {
        "metrics-guessable",
        "path-keys-on",
        "proxies-too-wide",
    }
    assert "canary" not in outcome.out


async def test_all_unusable_settings_are_told_at_once_and_the_stores_are_looked_at_all_the_same(
    well: CommandLine,
) -> None:
    well.set(GATEWAY_PORT="eighty", GATEWAY_CORS_ORIGINS="*")

    outcome = await well("doctor", "--json")

    report = json.loads(outcome.out)
    assert outcome.code == 1
    assert [each["kind"] for each in report["findings"]] == ["settings-invalid", "settings-invalid"]
    assert "database" in report["checked"]
    assert [each["check"] for each in report["not_checked"]] == ["trusted proxies"]


async def test_a_store_out_of_reach_is_a_finding_and_what_depends_on_it_is_said_not_to_be_looked_at(
    well: CommandLine,
) -> None:
    well.set(
        REDIS_URL="redis://:s3cr3t-s3cr3t@127.0.0.1:1/0",
        DATABASE_URL="postgresql://u:s3cr3t-s3cr3t@127.0.0.1:1/x",
    )

    outcome = await well("doctor", "--json")

    report = json.loads(outcome.out)
    assert outcome.code == 1
    assert {each["kind"] for each in report["findings"]} == {"redis-unusable", "database-unusable"}
    assert {each["check"] for each in report["not_checked"]} == {
        "backends",
        "models",
        "grants",
        "model loads",
    }


async def test_a_database_that_is_not_migrated(well: CommandLine, empty_database_url: str) -> None:
    well.set(DATABASE_URL=empty_database_url)

    assert (await found(well, code=1)).keys() == {"database-revision"}


async def test_without_a_worker_there_is_no_table(cli: CommandLine) -> None:
    cli.set(**NOTHING_WRONG)

    assert (await found(cli, code=1)).keys() == {"table-missing"}
