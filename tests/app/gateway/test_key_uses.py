"""When keys were last used, and which pepper proved them."""

from collections.abc import Sequence
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.gateway.key_uses import NOTE_AGAIN_AFTER_S, KeyUses
from db.key_lookup import KeyLookup
from db.postgres import Database
from domain.keys import PepperRing, mint_pepper
from domain.tenants import Actor, Found, KeyUse
from domain.values import KeyId
from tests.support.clock import Clock


class Notebook:
    """Takes what is written, or refuses it."""

    def __init__(self) -> None:
        self.written: list[KeyUse] = []
        self.refusing = False

    async def touch(self, uses: Sequence[KeyUse]) -> None:
        if self.refusing:
            raise ConnectionError
        self.written.extend(uses)


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def uses(notebook: Notebook, clock: Clock) -> KeyUses:
    return KeyUses(touch=notebook.touch, minting_id="new", now=clock)


async def test_a_key_in_constant_use_is_written_once_a_minute(
    uses: KeyUses, notebook: Notebook, clock: Clock
) -> None:
    key = KeyId(uuid4())
    for _ in range(100):
        uses.note(key)
        await uses.write()
        clock.at += NOTE_AGAIN_AFTER_S / 200

    assert [use.key_id for use in notebook.written] == [key]


async def test_a_key_is_written_again_after_a_minute(uses: KeyUses, notebook: Notebook, clock: Clock) -> None:
    key = KeyId(uuid4())
    uses.note(key)
    await uses.write()
    clock.at += NOTE_AGAIN_AFTER_S + 1
    uses.note(key)
    await uses.write()

    assert len(notebook.written) == 2


async def test_what_the_database_does_not_take_is_written_with_the_next(
    uses: KeyUses, notebook: Notebook
) -> None:
    key = KeyId(uuid4())
    uses.note(key)
    notebook.refusing = True
    await uses.write()
    notebook.refusing = False
    await uses.write()

    assert [use.key_id for use in notebook.written] == [key]


async def test_a_key_of_an_older_pepper_is_stored_under_the_newest(engine: AsyncEngine) -> None:
    old, new = mint_pepper("old"), mint_pepper("new")
    before, after = PepperRing.parse(old), PepperRing.parse(f"{new},{old}")
    async with Database(engine).unit_of_work(Actor("test")) as unit:
        tenant = await unit.tenants.create("team", "Team")
        issued = await unit.keys(tenant.id).create("laptop", peppers=before)
    lookup = KeyLookup(engine)
    uses = KeyUses(touch=lookup.touch, minting_id=after.minting_id)
    text = issued.minted.reveal()

    found = await uses.watching(lookup.find_by_digest)(after.digests(text))
    await uses.write()

    only_new = PepperRing.parse(new)
    again = await lookup.find_by_digest(only_new.digests(text))
    assert isinstance(found, Found)
    assert again.principal is not None
    assert again.pepper_id == "new"
