"""Stage 1: every reason for a no is the same no, and junk asks nobody."""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec
import pytest

from domain.authenticate import authenticate, usable
from domain.errors import Unauthenticated, Unavailable
from domain.keys import PepperRing, mint, mint_pepper
from domain.values import Principal, Role
from tests.support.principals import principal

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PEPPERS = PepperRing.parse(f"{mint_pepper('new')},{mint_pepper('old')}")
KEY = mint(Role.INFERENCE).reveal().encode()


class ScriptedKeys:
    """A key store that knows one answer and counts who asked."""

    def __init__(self, stored: Principal | None, *, in_memory: bool = False, reachable: bool = True) -> None:
        self._stored = stored
        self._in_memory = in_memory
        self._reachable = reachable
        self.asked: list[tuple[bytes, ...]] = []

    def remembered(self, digest: bytes) -> Principal | None:
        known = self._in_memory and digest == PEPPERS.digests(KEY)[0]
        return self._stored if known else None

    async def find_by_digest(self, digests: tuple[bytes, ...]) -> Principal | None:
        self.asked.append(digests)
        if not self._reachable:
            raise Unavailable("key_store_unreachable")
        return self._stored


async def proven(
    keys: ScriptedKeys,
    presented: bytes = KEY,
    *,
    role: Role = Role.INFERENCE,
    address: IPv4Address | IPv6Address | None = None,
    in_path: bool = False,
) -> Principal:
    return await authenticate(
        presented,
        digests=PEPPERS.digests(presented),
        role=role,
        keys=keys,
        now=NOW,
        client_address=lambda: address,
        in_path=in_path,
    )


async def test_a_known_key_gives_its_principal() -> None:
    owner = principal()

    assert await proven(ScriptedKeys(owner)) is owner


async def test_a_key_in_memory_asks_nobody() -> None:
    keys = ScriptedKeys(principal(), in_memory=True)

    await proven(keys)

    assert keys.asked == []


async def test_the_store_is_asked_for_every_digest() -> None:
    keys = ScriptedKeys(principal())

    await proven(keys)

    assert keys.asked == [PEPPERS.digests(KEY)]
    assert len(keys.asked[0]) == 2


@pytest.mark.parametrize(
    "junk",
    [b"", b"x", b"nng_", b"\0" * 64, b"\xff" * 64, KEY[:-1], KEY + b"\n", KEY[:-1] + b"!", KEY.swapcase(), b"x" * 512],
    ids=lambda _: "junk",  # the key differs in each process, and all must know a test by one name
)  # fmt: skip
async def test_junk_is_refused_without_asking_anybody(junk: bytes) -> None:
    keys = ScriptedKeys(principal())

    with pytest.raises(Unauthenticated):
        await proven(keys, junk)

    assert keys.asked == []


async def test_t03_an_unknown_key_and_an_expired_one_are_refused_alike() -> None:
    expired = msgspec.structs.replace(principal(), expires_at=NOW)

    for stored in (None, expired):
        with pytest.raises(Unauthenticated) as refusal:
            await proven(ScriptedKeys(stored))
        assert refusal.value.args == ()


async def test_an_expired_key_is_refused_although_memory_holds_it() -> None:
    expired = msgspec.structs.replace(principal(), expires_at=NOW - timedelta(microseconds=1))

    with pytest.raises(Unauthenticated):
        await proven(ScriptedKeys(expired, in_memory=True))


async def test_a_key_works_until_the_moment_it_expires() -> None:
    owner = msgspec.structs.replace(principal(), expires_at=NOW + timedelta(microseconds=1))

    assert await proven(ScriptedKeys(owner)) is owner


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(("stored", "wanted"), [(Role.ADMIN, Role.INFERENCE), (Role.INFERENCE, Role.ADMIN)])
async def test_a_key_of_the_other_role_is_unknown(stored: Role, wanted: Role, *, in_memory: bool) -> None:
    keys = ScriptedKeys(principal(role=stored), in_memory=in_memory)

    with pytest.raises(Unauthenticated):
        await proven(keys, role=wanted)


@pytest.mark.parametrize(
    ("address", "networks"),
    [
        ("10.1.2.3", ("10.0.0.0/8",)),
        ("10.1.2.3", ("192.168.0.0/16", "10.1.2.3/32")),
        ("2001:db8::1", ("10.0.0.0/8", "2001:db8::/32")),
    ],
)
async def test_a_key_bound_to_networks_works_inside_them(address: str, networks: tuple[str, ...]) -> None:
    owner = msgspec.structs.replace(principal(), allowed_networks=networks)

    assert await proven(ScriptedKeys(owner), address=ip_address(address)) is owner


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("address", ["11.0.0.1", "::1", "::ffff:10.0.0.1", None])
async def test_a_key_bound_to_networks_is_refused_elsewhere(address: str | None, *, in_memory: bool) -> None:
    owner = msgspec.structs.replace(principal(), allowed_networks=("10.0.0.0/8",))
    keys = ScriptedKeys(owner, in_memory=in_memory)

    with pytest.raises(Unauthenticated):
        await proven(keys, address=None if address is None else ip_address(address))


@pytest.mark.parametrize("in_memory", [True, False])
async def test_a_key_stands_in_a_path_only_if_it_may(*, in_memory: bool) -> None:
    may, may_not = principal(path_allowed=True), principal()

    assert await proven(ScriptedKeys(may, in_memory=in_memory), in_path=True) is may
    with pytest.raises(Unauthenticated):
        await proven(ScriptedKeys(may_not, in_memory=in_memory), in_path=True)


async def test_an_unbound_key_never_asks_for_the_address() -> None:
    def never() -> None:
        raise AssertionError("nobody needs the address")

    await authenticate(
        KEY,
        digests=PEPPERS.digests(KEY),
        role=Role.INFERENCE,
        keys=ScriptedKeys(principal()),
        now=NOW,
        client_address=never,
    )


async def test_a_store_out_of_reach_is_our_trouble_not_the_callers() -> None:
    with pytest.raises(Unavailable):
        await proven(ScriptedKeys(principal(), reachable=False))


def test_a_key_is_looked_at_again_as_if_it_came_in_a_header() -> None:
    assert usable(principal(), role=Role.INFERENCE, now=NOW, client_address=lambda: None)
