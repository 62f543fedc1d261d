import pytest

from app.embedded.first_start import migrate, mint
from app.embedded.handover import FirstKeys, MigrateOrder, MintOrder
from db.key_lookup import KeyLookup
from db.postgres import create_engine
from domain.keys import PepperRing, mint_pepper
from domain.values import Principal, Role
from tests.support.servers import APP_ROLE, Databases

PEPPER = mint_pepper("test")


@pytest.fixture
async def order(empty_database_url: str) -> MintOrder:
    """Give the order to mint in a database of this release."""
    await migrate(MigrateOrder(empty_database_url, APP_ROLE.address(empty_database_url)))
    return MintOrder(empty_database_url, PEPPER, "demo")


@pytest.fixture
async def keys(order: MintOrder) -> FirstKeys:
    return await mint(order)


async def principal_of(key: str | None, order: MintOrder) -> Principal | None:
    engine = create_engine(order.database_url, application_name="test")
    try:
        digests = PepperRing.parse(PEPPER).digests(str(key))
        return (await KeyLookup(engine).find_by_digest(digests)).principal
    finally:
        await engine.dispose()


async def test_the_first_tenant_s_key_may_use_every_model(order: MintOrder, keys: FirstKeys) -> None:
    principal = await principal_of(keys.tenant_key, order)

    assert principal is not None
    assert (principal.tenant_slug, principal.role, principal.key_rights) == ("demo", Role.INFERENCE, None)
    assert principal.tenant_rights.allow_all_models


async def test_the_first_admin_key_is_one(order: MintOrder, keys: FirstKeys) -> None:
    principal = await principal_of(keys.admin_key, order)

    assert principal is not None
    assert principal.role is Role.ADMIN


async def test_keys_are_minted_once(order: MintOrder, keys: FirstKeys) -> None:
    assert keys.tenant_key

    assert await mint(order) == FirstKeys(None, None)


async def test_another_first_tenant_gets_its_own_key_and_no_second_admin_appears(
    order: MintOrder, keys: FirstKeys
) -> None:
    later = await mint(MintOrder(order.database_url, PEPPER, "default"))

    assert later.tenant_key not in {None, keys.tenant_key}
    assert later.admin_key is None


async def test_a_database_of_something_else_is_left_alone(
    postgres: Databases, empty_database_url: str
) -> None:
    postgres.execute("CREATE TABLE theirs ()", url=empty_database_url)

    answer = await migrate(MigrateOrder(empty_database_url, APP_ROLE.address(empty_database_url)))

    assert answer.refusal is not None
    assert "theirs" in answer.refusal
