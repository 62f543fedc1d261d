"""The look-ups every route shares, and what of them is worked out once only."""

import asyncio
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from app.gateway.access_log import AccessLog
from app.gateway.body import Bodies
from app.gateway.call import Call
from app.gateway.catalogue import Catalogue
from app.gateway.client_address import TrustedProxies
from app.gateway.cooldown import Cooldown
from app.gateway.endpoint import Endpoint
from app.gateway.exchanges import Exchanges
from app.gateway.gateway import Gateway, first_of_month
from app.gateway.journal.ledger import LedgerState
from app.gateway.key_uses import KeyUses
from app.gateway.lingering import Lingering
from app.gateway.reads import read_routes
from app.metrics import Metrics
from db.redis.limit_standing import LimitStanding
from db.redis.multiplex import MultiplexedRedis
from domain.errors import Unauthenticated, Unavailable
from domain.keys import PepperRing, mint, mint_pepper
from domain.model_names import canonical
from domain.model_table import BackendCondition, ModelTable
from domain.ports import OpenEntry
from domain.tenants import KeyUse
from domain.usage import Admission
from domain.values import Limits, Principal, Rights, Role
from tests.support.asgi import ask
from tests.support.limiters import limiter_of_nobody
from tests.support.places import no_places
from tests.support.principals import principal
from tests.support.tables import backend, config_digests, hosted, table
from tests.support.waiting import until

PEPPERS = PepperRing.parse(mint_pepper("p1"))
LEDGER = LedgerState(
    is_full=False,
    open_records=3,
    unconfirmed_records=4,
    unshipped_records=0,
    oldest_unconfirmed_age_s=0.0,
    ring_bytes_free=1,
    adopted_journals=0,
)
NOBODY_LIMITED = limiter_of_nobody()
NO_REDIS = MultiplexedRedis(SecretStr("redis://127.0.0.1:1"), timeout_s=1)
KEY = mint(Role.INFERENCE).reveal().encode()


class Keys:
    """One key, in memory."""

    def __init__(self) -> None:
        self.owner: Principal | None = principal()

    def remembered(self, digest: bytes) -> Principal | None:
        return self.owner if digest == PEPPERS.digests(KEY)[0] else None

    async def find_by_digest(self, digests: tuple[bytes, ...]) -> Principal | None:
        return self.remembered(digests[0])


class Reader:
    """A table that is simply there."""

    def __init__(self) -> None:
        self.table = table()

    async def read_version(self) -> int:
        return self.table.version

    async def read_table(self) -> ModelTable:
        return self.table

    def changes(self) -> Any:
        raise AssertionError("nobody listens here")


class NoLedger:
    """No request is admitted in these tests."""

    def open(self, admission: Admission) -> OpenEntry:
        raise AssertionError(f"unexpected: {admission}")


class World:
    """A gateway with one key and two backends."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.reader = Reader()
        self.metrics = Metrics()
        cooldown = Cooldown()
        catalogue = Catalogue(reader=self.reader, config_digests=config_digests("a", "b"), cooldown=cooldown)
        self.gateway = Gateway(
            keys=self.keys,
            peppers=PEPPERS,
            key_uses=KeyUses(touch=self._touch, minting_id=PEPPERS.minting_id),
            limiter=NOBODY_LIMITED,
            standing=LimitStanding(NO_REDIS),
            image_tokens=1024,
            proxies=TrustedProxies(["10.0.0.1"]),
            catalogue=catalogue,
            upstreams={},
            cooldown=cooldown,
            places=no_places(self.metrics),
            ledger=NoLedger(),
            exchanges=Exchanges(write_timeout_s=30, heartbeat_s=15),
            metrics=self.metrics,
            request_poll=lambda: None,
            bodies=Bodies(max_bytes=100, base_timeout_s=10, max_buffered_bytes=1000),
            default_output_cap=4096,
            ledger_state=lambda: LEDGER,
        )

    async def _touch(self, uses: Sequence[KeyUse]) -> None:
        raise AssertionError(f"nobody writes here: {uses}")

    async def show(self, *states: Any, version: int = 1) -> None:
        self.reader.table = table(*states, version=version)
        await self.gateway.catalogue.refresh()


@pytest.fixture
async def world() -> World:
    return World()


def call(key: bytes = KEY, *, peer: str = "10.0.0.1", forwarded_for: bytes = b"1.2.3.4") -> Call:
    headers = ((b"x-api-key", key), (b"x-forwarded-for", forwarded_for), (b"x-real-ip", b"9.9.9.9"))
    return Call(method="GET", raw_path=b"/api/tags", headers=headers, peer=peer, started=0.0)


async def test_a_key_gives_its_principal(world: World) -> None:
    assert await world.gateway.principal(call()) is world.keys.owner


async def test_another_key_is_refused(world: World) -> None:
    with pytest.raises(Unauthenticated):
        await world.gateway.principal(call(mint(Role.INFERENCE).reveal().encode()))


async def test_t14_networks_are_checked_against_the_hop_that_the_proxy_saw(world: World) -> None:
    world.keys.owner = msgspec.structs.replace(principal(), allowed_networks=("1.2.3.0/24",))

    assert await world.gateway.principal(call()) is world.keys.owner
    for spoofed in (call(peer="8.8.8.8"), call(forwarded_for=b"1.2.3.4, 8.8.8.8"), call(forwarded_for=b"")):
        with pytest.raises(Unauthenticated):
            await world.gateway.principal(spoofed)


async def test_t14_a_real_ip_header_is_never_believed(world: World) -> None:
    world.keys.owner = msgspec.structs.replace(principal(), allowed_networks=("9.9.9.9/32",))

    with pytest.raises(Unauthenticated):
        await world.gateway.principal(call())


async def test_a_principal_is_current_until_memory_holds_another(world: World) -> None:
    asked = call()
    found = await world.gateway.principal(asked)
    assert world.gateway.is_current(found, asked)

    world.keys.owner = msgspec.structs.replace(found)

    assert not world.gateway.is_current(found, asked)


async def test_rights_are_compiled_once_and_again_when_the_key_was_read_again(world: World) -> None:
    before = principal(rights=Rights(patterns=("m:1",)))
    after = msgspec.structs.replace(before, tenant_rights=Rights(patterns=("m:2",)))
    m1, m2 = canonical("m:1"), canonical("m:2")
    assert m1
    assert m2

    first = world.gateway.rights(before)
    assert world.gateway.rights(before) is first
    assert (first.permit(m1), first.permit(m2)) == (True, False)

    second = world.gateway.rights(after)
    assert (second.permit(m1), second.permit(m2)) == (False, True)


async def test_lists_are_merged_once_per_snapshot(world: World) -> None:
    await world.show(backend("a", hosted("m:1")))
    first = world.gateway.listing()
    assert world.gateway.listing() is first

    await world.show(backend("a", hosted("m:2")), version=2)

    assert list(world.gateway.listing().by_name) == ["m:2"]


async def test_before_a_snapshot_nobody_is_told_that_there_are_no_models(world: World) -> None:
    with pytest.raises(Unavailable):
        world.gateway.listing()


async def test_gauges_show_what_is_the_case_now(world: World) -> None:
    await world.show(backend("a"), backend("b", condition=BackendCondition.SILENT), backend("foreign"))

    world.gateway.refresh_metrics()

    figures = world.metrics.exposition().decode()
    assert 'nng_backend_up{backend="a"} 1.0' in figures
    assert 'nng_backend_up{backend="b"} 0.0' in figures
    assert "foreign" not in figures
    assert "nng_journal_open_records 3.0" in figures
    assert "nng_journal_unconfirmed_records 4.0" in figures
    assert "nng_in_flight_requests 0.0" in figures


async def test_figures_are_kept_up_to_date_for_scrapes_elsewhere(world: World) -> None:
    keeping = asyncio.create_task(world.gateway.keep_metrics())
    world.gateway.count_failover("a")

    await until(lambda: "nng_journal_open_records 3.0" in world.metrics.exposition().decode(), within_s=5)

    keeping.cancel()
    await asyncio.wait([keeping])


@pytest.mark.parametrize(
    ("moment", "first"),
    [
        ("2026-11-30T23:59:59Z", "2026-11-01"),
        ("2026-12-01T00:00:00Z", "2026-12-01"),
        ("2024-02-29T12:00:00Z", "2024-02-01"),
    ],
)
def test_the_accounting_period_is_the_month_in_utc(moment: str, first: str) -> None:
    assert first_of_month(datetime.fromisoformat(moment).astimezone(UTC)).isoformat() == first


async def test_limits_that_cannot_be_read_are_told_as_unknown_and_never_as_an_error(world: World) -> None:
    world.keys.owner = principal(
        tenant_limits=Limits(requests_per_minute=60), key_limits=Limits(concurrency=2)
    )
    (route,) = [route for route in read_routes(lambda: world.gateway) if route.template == "/me"]
    endpoint = Endpoint(
        route, metrics=world.metrics, access_log=AccessLog("json", io.StringIO()), lingering=Lingering()
    )
    answer = await ask(endpoint.answer, "GET", b"/me", [(b"x-api-key", KEY)])

    unknown = dict.fromkeys(("used", "reserved", "remaining", "resets_at"))
    assert (answer.status, answer.json()["models"]) == (200, None)
    assert answer.json()["limits"] == [
        {"kind": "requests_per_minute", "scope": "tenant", "limit": 60, **unknown},
        {"kind": "concurrency", "scope": "key", "limit": 2, **unknown},
    ]
