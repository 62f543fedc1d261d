"""What counts as Postgres being away, and what as an answer."""

import pytest
from sqlalchemy import text

from db.postgres import create_engine, is_outage


async def trouble_of(url: str, *statements: str, timeout_s: float = 5.0, **values: object) -> Exception:
    """Return what the last of some statements raises."""
    engine = create_engine(url, application_name="test", statement_timeout_s=timeout_s)
    try:
        async with engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement), values)
    except Exception as trouble:  # noqa: BLE001 - that is what is asked for
        return trouble
    finally:
        await engine.dispose()
    raise AssertionError("nothing was raised")


async def test_nobody_listening_is_an_outage() -> None:
    assert is_outage(await trouble_of("postgresql://u:p@127.0.0.1:1/none", "SELECT 1"))


async def test_an_answer_that_takes_too_long_is_an_outage(database_url: str) -> None:
    assert is_outage(await trouble_of(database_url, "SELECT pg_sleep(5)", timeout_s=0.05))


async def test_a_connection_that_is_cut_is_an_outage(database_url: str) -> None:
    assert is_outage(
        await trouble_of(database_url, "SELECT pg_terminate_backend(pg_backend_pid())", "SELECT 1")
    )


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM nothing_of_this_name",
        "SELECT 1 / 0",
        "INSERT INTO tenants (id, slug, name) VALUES (gen_random_uuid(), 'A', 'x')",
    ],
)
async def test_a_refusal_is_an_answer(database_url: str, statement: str) -> None:
    assert not is_outage(await trouble_of(database_url, statement))


async def test_a_value_that_cannot_be_sent_is_a_mistake_of_ours(database_url: str) -> None:
    statement = "SELECT CAST(:number AS integer)"

    assert not is_outage(await trouble_of(database_url, statement, number="x"))
    assert not is_outage(await trouble_of(database_url, statement, number=2**70))


def test_whatever_else_is_raised_is_no_outage() -> None:
    assert not is_outage(ValueError())
