"""Whose address counts when proxies stand in front, and when nobody is believed."""

import asyncio
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.gateway.client_address import (
    KEEP_LAST_GOOD_S,
    RESOLVE_EVERY_S,
    RESOLVE_TIMEOUT_S,
    TrustedProxies,
)
from tests.support.clock import Clock
from tests.support.counts import count
from tests.support.waiting import until

pytestmark = pytest.mark.parser


def client(trusted: Sequence[str], peer: str | None, *forwarded_for: bytes) -> str | None:
    found = TrustedProxies(trusted).client_address(peer, forwarded_for)
    return None if found is None else str(found)


PROXIES = ("10.0.0.0/8", "192.168.1.1", "2001:db8::/32")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        # no proxy in between
        ("10.0.0.1", [], "10.0.0.1"),
        ("8.8.8.8", [], "8.8.8.8"),
        # a stranger's word is worth nothing
        ("8.8.8.8", [b"1.1.1.1"], "8.8.8.8"),
        ("192.168.1.2", [b"1.1.1.1"], "192.168.1.2"),
        ("::1", [b"1.1.1.1"], "::1"),
        # the rightmost hop that is no proxy
        ("10.0.0.1", [b"1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", [b"6.6.6.6, 1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", [b"6.6.6.6,1.1.1.1,10.9.9.9, 192.168.1.1"], "1.1.1.1"),
        ("10.0.0.1", [b"6.6.6.6", b"1.1.1.1", b"10.0.0.2"], "1.1.1.1"),
        ("10.0.0.1", [b"127.0.0.1, 10.0.0.3, 1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", [b", ".join(b"6.6.6.%d" % n for n in range(12))], "6.6.6.11"),
        ("2001:db8::1", [b"1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", [b"2a00::1"], "2a00::1"),
        # only proxies: the farthest of them
        ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # IPv4 written as IPv6 is the same address
        ("::ffff:10.0.0.1", [b"1.1.1.1"], "1.1.1.1"),
        ("10.0.0.1", [b"6.6.6.6, ::ffff:10.0.0.2"], "6.6.6.6"),
        ("10.0.0.1", [b"::ffff:1.1.1.1"], "1.1.1.1"),
        # a hop nobody can read is nobody's address
        ("10.0.0.1", [b"unknown"], None),
        ("10.0.0.1", [b"1.1.1.1, _hidden"], None),
        ("10.0.0.1", [b"1.1.1.1:443"], None),
        ("10.0.0.1", [b""], None),
        ("10.0.0.1", [b"1.1.1.1,"], None),
        ("10.0.0.1", [b"\xff\xfe"], None),
        # a Unix socket has no address
        (None, [b"1.1.1.1"], None),
        ("", [b"1.1.1.1"], None),
    ],
)
def test_t14_the_rightmost_hop_that_is_no_proxy_counts(
    peer: str | None, forwarded_for: list[bytes], address: str | None
) -> None:
    assert client(PROXIES, peer, *forwarded_for) == address


def test_t14_a_network_may_be_written_with_one_of_its_addresses() -> None:
    assert client(["10.1.2.3/8"], "10.0.0.1", b"1.1.1.1") == "1.1.1.1"


@pytest.mark.parametrize("peer", ["127.0.0.1", "10.0.0.1", "::1"])
def test_t14_without_trusted_proxies_the_peer_counts(peer: str) -> None:
    assert client((), peer, b"1.1.1.1") == peer


class Names:
    """A name service that says what a test wants."""

    def __init__(self, **addresses: list[str]) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    async def __call__(self, name: str) -> Iterable[str]:
        self.asked.append(name)
        if name not in self.addresses:
            raise OSError("no such name")
        return self.addresses[name]


class World:
    """Trusted proxies known by name, with a clock."""

    def __init__(self, *entries: str, **addresses: list[str]) -> None:
        self.names = Names(**addresses)
        self.clock = Clock()
        self.proxies = TrustedProxies(entries, resolve_name=self.names, now=self.clock)

    def trusts(self, *addresses: str) -> list[bool]:
        return [self.proxies.trusts(ip_address(address)) for address in addresses]


async def test_t14_a_name_means_all_of_its_addresses() -> None:
    world = World("proxy", proxy=["172.20.0.5", "172.20.0.6", "2001:db8::5", "::ffff:172.20.0.7"])

    assert world.trusts("172.20.0.5") == [False]
    await world.proxies.resolve()

    assert world.trusts("172.20.0.5", "172.20.0.6", "2001:db8::5", "172.20.0.7") == [True] * 4
    assert world.trusts("172.20.0.8") == [False]


async def test_t14_a_name_that_moves_takes_its_trust_along() -> None:
    world = World("proxy", proxy=["172.20.0.5"])
    await world.proxies.resolve()
    world.names.addresses["proxy"] = ["172.20.0.9"]
    await world.proxies.resolve()

    assert world.trusts("172.20.0.5", "172.20.0.9") == [False, True]


async def test_t14_a_name_that_no_longer_resolves_is_believed_for_five_minutes_at_most() -> None:
    world = World("proxy", proxy=["172.20.0.5"])
    await world.proxies.resolve()
    resolved_at = world.clock.at
    world.names.addresses.clear()

    last_trusted = resolved_at
    while world.trusts("172.20.0.5") == [True]:
        last_trusted = world.clock.at
        world.clock.at += RESOLVE_EVERY_S
        await world.proxies.resolve()

    assert last_trusted - resolved_at > KEEP_LAST_GOOD_S - 3 * RESOLVE_EVERY_S
    assert world.clock.at - resolved_at <= KEEP_LAST_GOOD_S


@pytest.mark.parametrize(("beyond_s", "trusted"), [(0.0, True), (0.5, False)])
async def test_t14_the_addresses_of_a_name_are_never_too_old_before_the_next_look_has_ended(
    beyond_s: float, *, trusted: bool
) -> None:
    world = World("proxy", proxy=["172.20.0.5"])
    await world.proxies.resolve()
    world.names.addresses.clear()
    world.clock.at += KEEP_LAST_GOOD_S - RESOLVE_EVERY_S - RESOLVE_TIMEOUT_S + beyond_s

    await world.proxies.resolve()

    assert world.trusts("172.20.0.5") == [trusted]


async def test_a_name_that_does_not_resolve_is_in_the_log_of_whoever_looks_for_it() -> None:
    with capture_logs() as logs:
        await World("gone").proxies.resolve()

    assert logs == [
        {"event": "trusted_proxy_unresolved", "log_level": "debug", "name": "gone", "error": "OSError"}
    ]


async def test_t14_one_name_that_fails_costs_another_nothing() -> None:
    world = World("gone", "proxy", "also.gone", proxy=["172.20.0.5"])

    await world.proxies.resolve()

    assert sorted(world.names.asked) == ["also.gone", "gone", "proxy"]
    assert world.trusts("172.20.0.5") == [True]


async def test_a_name_that_is_none_is_a_name_that_does_not_resolve() -> None:
    proxies = TrustedProxies(["a..b", "x" * 300])

    await proxies.resolve()

    assert not proxies.trusts(ip_address("127.0.0.1"))


async def test_a_real_name_resolves() -> None:
    proxies = TrustedProxies(["localhost"])

    await proxies.resolve()

    assert proxies.trusts(ip_address("127.0.0.1")) or proxies.trusts(ip_address("::1"))


async def test_names_are_followed_and_addresses_need_no_following() -> None:
    await asyncio.wait_for(TrustedProxies(["10.0.0.0/8"]).follow_names(), 5)
    world = World("proxy", proxy=["172.20.0.5"])
    following = asyncio.create_task(world.proxies.follow_names())

    await until(lambda: world.trusts("172.20.0.5") == [True], within_s=5)

    assert not following.done()
    following.cancel()
    await asyncio.wait([following])
    assert following.cancelled()


HOPS = (
    st.ip_addresses().map(lambda address: str(address).encode())
    | st.sampled_from([b"10.0.0.1", b"::ffff:10.0.0.1", b"fe80::1%eth0", b"1.1.1.1:80", b"unknown", b""])
    | st.binary(max_size=12)
)


@given(st.lists(HOPS, max_size=5))
@settings(max_examples=count(500, 50_000), deadline=None)
def test_no_hops_make_a_proxy_the_client_of_another_network(hops: list[bytes]) -> None:
    proxies = TrustedProxies(PROXIES)
    address = proxies.client_address("10.0.0.1", [b",".join(hops)])

    assert address is None or not proxies.trusts(address) or all(map(_is_proxy, b",".join(hops).split(b",")))


def _is_proxy(hop: bytes) -> bool:
    return (
        client(PROXIES, hop.decode("latin-1").strip()) is not None
        and client(PROXIES, hop.decode("latin-1").strip(), b"9.9.9.9") == "9.9.9.9"
    )
