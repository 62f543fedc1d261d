"""A database goes back to its backup: what was revoked since is revoked again, and no cache survives."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import RedisError

from db.postgres import Database, create_engine
from db.redis.connection import connect_patient
from db.redis.key_cache import RedisKeyCache
from db.redis.revocation_channel import Announcement, RevocationAnnouncer, RevocationNews
from db.restore_fence import MARGIN, FenceReport, raise_restore_fence
from db.revocation_mirror import RevocationMirror
from db.revocations import Revocations
from domain.tenants import Actor
from tests.support.principals import principal
from tests.support.rows import ACME, ONE, TWO, add_acme, add_key
from tests.support.servers import Databases

LATER = UUID("00000000-0000-7000-8000-000000000003")


class Site:
    """A database with its mirror and its Redis, which can be backed up once and restored."""

    def __init__(self, postgres: Databases, url: str, redis: Redis, mirror: RevocationMirror) -> None:
        self._postgres = postgres
        self._backup = ""
        self.url = url
        self.redis = redis
        self.mirror = mirror

    async def write(self, *statements: str) -> None:
        """Write, and let the worker mirror it."""
        connection = await asyncpg.connect(self.url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()
        await self.copy_to_mirror()

    async def copy_to_mirror(self) -> None:
        engine = create_engine(self.url, application_name="test", pool_size=None)
        await self.mirror.catch_up(Revocations(engine).since)
        await engine.dispose()

    async def read(self, question: str) -> object:
        connection = await asyncpg.connect(self.url)
        found: object = await connection.fetchval(question)
        await connection.close()
        return found

    def back_up(self) -> None:
        self._backup = self._postgres.create(template=self.url)

    def restore(self) -> None:
        """Put the backup in the place of the database, as it was."""
        name, backup = self.url.rpartition("/")[2], self._backup.rpartition("/")[2]
        self._postgres.drop(self.url)
        self._postgres.execute(f'CREATE DATABASE "{name}" TEMPLATE "{backup}"')

    async def fence(self, *, mirrored: bool = True) -> FenceReport:
        engine = create_engine(self.url, application_name="test", pool_size=None)
        try:
            return await raise_restore_fence(
                Database(engine), self.redis, self.mirror if mirrored else None, actor=Actor("test")
            )
        finally:
            await engine.dispose()

    async def newest(self) -> int:
        newest = await self.read("SELECT max(seq) FROM revocations")
        assert isinstance(newest, int)
        return newest

    async def revoked(self) -> object:
        return await self.read("SELECT array_agg(id ORDER BY id) FROM api_keys WHERE status = 'revoked'")


@pytest.fixture
async def site(postgres: Databases, database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """Give a site with a tenant and two keys, backed up."""
    connection = await asyncpg.connect(database_url)
    await add_acme(connection)
    await connection.close()
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(connect_patient(SecretStr(redis_url)))
        site = Site(postgres, database_url, redis, RevocationMirror(tmp_path / "mirror"))
        await site.copy_to_mirror()
        site.back_up()
        yield site
        postgres.drop(site._backup)  # noqa: SLF001 - the end of its own fixture


REVOKE_ONE = f"UPDATE api_keys SET status = 'revoked' WHERE id = '{ONE}'"
SUSPEND = "UPDATE tenants SET status = 'suspended'"


async def test_a_restore_alone_brings_a_revoked_key_back(site: Site) -> None:
    """What the fence is for: without it this would be the end of the story."""
    await site.write(REVOKE_ONE)

    site.restore()

    assert await site.revoked() is None


async def test_a_key_revoked_after_the_backup_is_revoked_again(site: Site) -> None:
    await site.write(REVOKE_ONE)
    site.restore()

    report = await site.fence()

    assert await site.revoked() == [ONE]
    assert len(report.keys) == 1


@pytest.mark.parametrize(
    "change",
    [
        f"UPDATE api_keys SET expires_at = now() WHERE id = '{ONE}'",
        f"DELETE FROM api_keys WHERE id = '{ONE}'",
    ],
)
async def test_a_key_that_was_ended_in_another_way_is_revoked(site: Site, change: str) -> None:
    await site.write(change)
    site.restore()

    await site.fence()

    assert await site.revoked() == [ONE]


@pytest.mark.parametrize("change", [SUSPEND, "DELETE FROM tenants"])
async def test_a_tenant_that_was_ended_after_the_backup_is_suspended(site: Site, change: str) -> None:
    await site.write(change)
    site.restore()

    report = await site.fence()

    assert await site.read("SELECT status::text FROM tenants") == "suspended"
    assert report.tenants == ("acme",)


async def test_who_was_let_in_again_before_the_restore_stays_in(site: Site) -> None:
    await site.write(SUSPEND, "UPDATE tenants SET status = 'active'")
    site.restore()

    report = await site.fence()

    assert await site.read("SELECT status::text FROM tenants") == "active"
    assert (report.tenants, report.changed) == ((), ("tenant acme",))


async def test_what_was_revoked_before_the_backup_is_left_alone(site: Site) -> None:
    await site.write(f"UPDATE api_keys SET status = 'revoked' WHERE id = '{TWO}'")
    site.back_up()
    await site.write(REVOKE_ONE)
    site.restore()

    report = await site.fence()

    assert len(report.keys) == 1


async def test_other_changes_are_named_for_the_operator(site: Site) -> None:
    await site.write("UPDATE tenant_limits SET rpm = 1", f"DELETE FROM model_grants WHERE key_id = '{ONE}'")
    site.restore()

    report = await site.fence()

    assert (report.keys, report.tenants, len(report.changed)) == ((), (), 2)


async def test_a_key_made_after_the_backup_is_passed_over(site: Site) -> None:
    connection = await asyncpg.connect(site.url)
    await add_key(connection, LATER)
    await connection.close()
    await site.write(f"UPDATE api_keys SET status = 'revoked' WHERE id = '{LATER}'")
    site.restore()

    report = await site.fence()

    assert (report.keys, report.lines_after_backup) == ((), 1)


async def test_a_change_after_the_restore_hides_no_lost_revocation(site: Site) -> None:
    await site.write(REVOKE_ONE)
    site.restore()
    await site.write(
        "UPDATE key_limits SET rpm = 7", f"UPDATE api_keys SET path_allowed = false WHERE id = '{ONE}'"
    )

    await site.fence()

    assert await site.revoked() == [ONE]


async def test_a_second_fence_finds_nothing_to_revoke(site: Site) -> None:
    await site.write(REVOKE_ONE)
    site.restore()
    first = await site.fence()

    second = await site.fence()

    assert (second.keys, second.lines_after_backup) == ((), 0)
    assert second.seq == first.seq + MARGIN


async def test_a_second_fence_leaves_what_operators_did_since(site: Site) -> None:
    await site.write(SUSPEND)
    site.restore()
    await site.fence()
    await site.write("UPDATE tenants SET status = 'active'")

    await site.fence()

    assert await site.read("SELECT status::text FROM tenants") == "active"


async def test_the_same_backup_can_be_restored_twice(site: Site) -> None:
    await site.write(REVOKE_ONE)
    site.restore()
    await site.fence()
    await site.write(f"UPDATE api_keys SET status = 'revoked' WHERE id = '{TWO}'")
    site.restore()

    await site.fence()

    assert await site.revoked() == [ONE, TWO]


async def test_it_is_written_to_the_audit_log(site: Site) -> None:
    await site.write(REVOKE_ONE)
    site.restore()

    await site.fence()

    actions = await site.read("SELECT array_agg(action ORDER BY action) FROM audit_events")
    assert actions == ["key.revoke", "restore.fence"]


async def test_the_sequence_goes_on_above_the_mirror(site: Site) -> None:
    await site.write(*["UPDATE api_keys SET path_allowed = NOT path_allowed"] * 50)
    high = await site.newest()
    site.restore()

    report = await site.fence()

    assert (report.highest_in_mirror, await site.newest()) == (high, report.seq)
    assert report.seq > high


async def test_the_sequence_goes_on_above_what_redis_knows(site: Site) -> None:
    await RevocationAnnouncer(site.redis).announce(Announcement(after=0, seq=70_000), instead_of=None)
    await RevocationNews(site.redis, process_id="a").report(80_000)

    report = await site.fence(mirrored=False)

    assert report.highest_in_redis == 80_000
    assert await site.newest() == 80_000 + MARGIN


async def test_the_epoch_follows_and_everybody_is_told_to_ask(site: Site) -> None:
    async with RevocationNews(site.redis, process_id="a").announcements() as heard:
        await anext(heard)
        report = await site.fence()

        assert await anext(heard) == Announcement(after=report.seq, seq=report.seq)
    assert await RevocationAnnouncer(site.redis).epoch() == report.seq


async def test_cached_keys_are_forgotten(site: Site) -> None:
    cache = RedisKeyCache(site.redis)
    await cache.put(b"digest", principal(tenant_id=ACME), 3)

    report = await site.fence()

    assert await cache.get(b"digest") is None
    assert report.cached_keys == 1


async def test_without_redis_nothing_is_changed(site: Site) -> None:
    before = await site.newest()
    nobody = connect_patient(SecretStr("redis://127.0.0.1:1/0"))
    engine = create_engine(site.url, application_name="test", pool_size=None)

    with pytest.raises(RedisError):
        await raise_restore_fence(Database(engine), nobody, site.mirror, actor=Actor("test"))

    await engine.dispose()
    await nobody.aclose()
    assert await site.newest() == before


async def test_listeners_hear_of_it(site: Site) -> None:
    heard: list[str] = []
    listener = await asyncpg.connect(site.url)
    await listener.add_listener("key_revoked", lambda *call: heard.append(str(call[-1])))

    report = await site.fence()

    await listener.execute("SELECT 1")
    await listener.close()
    assert heard[-1] == str(report.seq)
