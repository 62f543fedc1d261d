"""The schema on the oldest PostgreSQL we support, where this machine has it."""

from collections.abc import Iterator

import asyncpg
import pytest

from db import migrate
from db.postgres import create_engine
from db.revocations import Revocations
from domain.tenants import RevocationScope
from tests.support.other_postgres import INSTALLED, OLDEST, installed, running_other_postgres
from tests.support.rows import ONE, add_acme


@pytest.fixture(scope="module")
def oldest_url() -> Iterator[str]:
    programs = installed(OLDEST)
    if programs is None:
        pytest.skip(f"NOT TESTED: no PostgreSQL {OLDEST} in {INSTALLED}, the oldest supported server")
    with running_other_postgres(programs) as databases:
        yield databases.create()


async def test_the_oldest_server_takes_the_schema_and_notes_a_revoked_key(oldest_url: str) -> None:
    await migrate.upgrade(oldest_url)
    assert await migrate.check(oldest_url) == ()

    connection = await asyncpg.connect(oldest_url)
    await add_acme(connection)
    await connection.execute("UPDATE api_keys SET status = 'revoked' WHERE id = $1", ONE)
    await connection.close()

    engine = create_engine(oldest_url, application_name="test")
    newest = (await Revocations(engine).since(0, 100))[-1]
    await engine.dispose()
    assert (newest.scope, newest.subject_id) == (RevocationScope.KEY, ONE)

    assert await migrate.downgrade(oldest_url, "base") == "base"
