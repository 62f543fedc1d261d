"""`keys`: what callers prove themselves with."""

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import App, Parameter

from app.cli.confirmed import exit_code, told, wait_for_confirmation
from app.cli.failure import CommandFailed, InputRefused
from app.cli.options import COMMON, Common
from app.cli.output import Table, moment, say, show_json, show_table
from app.cli.people import actor, find_tenant
from app.cli.place import environment, gateway_url, load, open_database

if TYPE_CHECKING:
    from db.postgres import UnitOfWork
    from domain.tenants import KeySummary, Network, Tenant

REVOKED_WITHIN_S = 2

app = App(
    name="keys",
    help="""Create, list and revoke API keys.

Example: `neuronetz-gateway keys create laptop --tenant research`
""",
)

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_PREFIX = re.compile(r"nnga?_[0-9A-Za-z]{8}")


class KeyLine(msgspec.Struct, frozen=True):
    """A key as this command prints it; `tenant` None means an admin key. Never with its text."""

    id: str
    prefix: str
    name: str
    tenant: str | None
    role: str
    status: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    allowed_networks: tuple[str, ...]


class NewKey(msgspec.Struct, frozen=True):
    """A key just created. `key` is its whole text, which exists nowhere else."""

    key: str
    summary: KeyLine

    def __repr__(self) -> str:
        return f"NewKey({self.summary.prefix}_***)"


@app.command
async def create(
    name: str,
    /,
    *,
    tenant: str | None = None,
    admin: bool = False,
    expires: str | None = None,
    network: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    common: Common = COMMON,
) -> None:
    """Create a key and show it, this once.

    The key alone goes to standard output, so that a script can take it.

    Example: `neuronetz-gateway keys create laptop --tenant research --expires 2027-06-30`

    Parameters
    ----------
    name
        What it is for, so that it can be told from others.
    tenant
        Slug of the tenant it belongs to.
    admin
        Make a key for operators instead of one for a tenant.
    expires
        Last day it works, which counts whole, or the moment it ends: 2027-06-30, 2027-06-30T12:00 (UTC unless
        it says otherwise).
    network
        Only callers from there may use it, such as 10.0.0.0/8; may be repeated.
    """
    from app.cli.settings import KeyMintingSettings
    from domain.keys import PepperRing

    _check_owner(tenant, admin=admin)
    if not name.strip():
        raise InputRefused("A key needs a name, so that it can be told from others.")
    expires_at = None if expires is None else _expiry(expires)
    networks = tuple(_network(text) for text in network)
    environ = environment(common)
    settings = load(KeyMintingSettings, environ)
    peppers = PepperRing.parse(settings.key_pepper.get_secret_value())
    async with open_database(settings) as database, database.unit_of_work(actor()) as work:
        owner = None if tenant is None else await find_tenant(work, tenant, common)
        issued = await work.keys(None if owner is None else owner.id).create(
            name, peppers=peppers, expires_at=expires_at, allowed_networks=networks
        )
        usable = owner is None or owner.allow_all_models or bool(await work.grants(owner.id).list())
    if common.json:
        show_json(NewKey(issued.minted.reveal(), _line(issued.summary, tenant)))
        return
    say(f"Key {name} of {_owner(owner)}. It is not shown again; only its digest is kept.")
    print(issued.minted.reveal(), flush=True)
    if owner is None:
        say("It is an admin key: routes for tenants refuse it.")
        return
    say("Try it:", "  export NNG_KEY=...", _curl(gateway_url(environ)))
    if not usable:
        say(
            f"Tenant {owner.slug} may use no model yet:",
            f"  {common.command(f'models allow MODEL --tenant {owner.slug}')}",
        )


@app.command(name="list")
async def list_(*, tenant: str | None = None, admin: bool = False, common: Common = COMMON) -> None:
    """List keys by their prefixes, revoked ones too.

    Example: `neuronetz-gateway keys list --tenant research`

    Parameters
    ----------
    tenant
        Slug of the tenant whose keys to list. Default: everybody's.
    admin
        List the admin keys only.
    """
    from db.settings import DatabaseSettings

    if tenant is not None and admin:
        raise InputRefused("An admin key has no tenant: give --tenant or --admin, not both.")
    settings = load(DatabaseSettings, environment(common))
    async with open_database(settings) as database, database.unit_of_work(actor()) as work:
        lines = await _lines(work, tenant, common, admin=admin)
    if common.json:
        show_json({"keys": lines})
        return
    if not lines:
        say("There are no such keys yet:", f"  {common.command('keys create NAME --tenant SLUG')}")
        return
    headings = ("prefix", "name", "owner", "status", "created", "expires (UTC)", "last used (UTC)", "from")
    show_table(Table(headings, [_row(line) for line in lines]))


@app.command
async def revoke(key: str, /, *, wait: bool = False, common: Common = COMMON) -> int:
    """Revoke a key for good.

    Example: `neuronetz-gateway keys revoke nng_4fT9xQ2b --wait`

    Parameters
    ----------
    key
        Its prefix (`nng_` and eight characters, as `keys list` shows it) or its id.
    wait
        Return when every running process has confirmed that it refuses the key and has cut its streams; exit
        with 1 and name those that have not after 5 seconds.
    """
    from db.revocations import Revocations
    from db.settings import DatabaseSettings, RedisSettings

    reference = shown_reference(key)
    environ = environment(common)
    settings = load(DatabaseSettings, environ)
    redis_url = load(RedisSettings, environ).redis_url if wait else None
    async with open_database(settings) as database:
        async with database.unit_of_work(actor()) as work:
            revoked, was_active = await _revoke(work, reference, common)
            tenant = await _slug_of(work, revoked)
        committed = time.monotonic()
        seq = await Revocations(database.engine).latest_seq()
    waited: dict[str, Any] = {}
    code = 0
    if redis_url is not None:
        found = await wait_for_confirmation(seq, since=committed, redis_url=redis_url)
        waited, code = {"confirmation": found}, exit_code(found)
    if common.json:
        show_json({"key": _line(revoked, tenant), "changed": was_active} | waited)
        return code
    if was_active:
        print(
            f"Key {revoked.prefix} ({revoked.name}) is revoked. {consequence() if not waited else ''}".rstrip()
        )
    else:
        print(f"Key {revoked.prefix} ({revoked.name}) was revoked before; nothing changed.")
    if waited:
        print(told(waited["confirmation"]))
    return code


async def _revoke(work: "UnitOfWork", reference: str, common: Common) -> "tuple[KeySummary, bool]":
    """Revoke a key and return it, and whether it was active until now."""
    from domain.tenants import KeyStatus, KeyUnknown

    try:
        keys = work.keys(await work.tenants.owner_of_key(reference))
        was_active = (await keys.get(reference)).status is KeyStatus.ACTIVE
        return await keys.revoke(reference), was_active
    except KeyUnknown:
        raise CommandFailed(
            f"There is no key {reference}; `{common.command('keys list')}` shows their prefixes."
        ) from None


def consequence() -> str:
    """Return what a revocation does, as far as it is promised."""
    return f"It stops working everywhere within {REVOKED_WITHIN_S} seconds, and its running streams are cut."


def shown_reference(text: str) -> str:
    """Return what may be repeated of a key's name: a whole key that was pasted is cut to its prefix.

    Raises
    ------
    InputRefused
        It is neither a prefix nor an id.
    """
    from uuid import UUID

    prefix = _PREFIX.match(text)
    if prefix is not None:
        return prefix[0]
    try:
        return str(UUID(text))
    except ValueError:
        # Not repeated: it might be a damaged key.
        raise InputRefused(
            "A key is named by its prefix, `nng_` and eight characters, or by its id; `keys list` shows them."
        ) from None


async def _lines(work: "UnitOfWork", tenant: str | None, common: Common, *, admin: bool) -> list[KeyLine]:
    if tenant is not None:
        owner = await find_tenant(work, tenant, common)
        return [_line(key, owner.slug) for key in await work.keys(owner.id).list()]
    lines = [_line(key, None) for key in await work.keys(None).list()]
    if not admin:
        for each in await work.tenants.list():
            lines += [_line(key, each.slug) for key in await work.keys(each.id).list()]
    return lines


async def _slug_of(work: "UnitOfWork", key: "KeySummary") -> str | None:
    return next((each.slug for each in await work.tenants.list() if each.id == key.tenant_id), None)


def _line(key: "KeySummary", tenant: str | None) -> KeyLine:
    return KeyLine(
        id=str(key.id),
        prefix=key.prefix,
        name=key.name,
        tenant=tenant,
        role=key.role.value,
        status=_status(key),
        created_at=key.created_at,
        expires_at=key.expires_at,
        last_used_at=key.last_used_at,
        allowed_networks=key.allowed_networks,
    )


def _status(key: "KeySummary") -> str:
    from domain.tenants import KeyStatus

    over = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return "expired" if over and key.status is KeyStatus.ACTIVE else key.status.value


def _row(line: KeyLine) -> Sequence[str]:
    return (
        line.prefix,
        line.name,
        line.tenant or "(admin)",
        line.status,
        f"{line.created_at.astimezone(UTC):%Y-%m-%d}",
        moment(line.expires_at),
        moment(line.last_used_at),
        ", ".join(line.allowed_networks) or "anywhere",
    )


def _owner(tenant: "Tenant | None") -> str:
    return "the operators" if tenant is None else f"tenant {tenant.slug}"


def _curl(url: str) -> str:
    return f'  curl {url}/api/tags -H "Authorization: Bearer $NNG_KEY"'


def _check_owner(tenant: str | None, *, admin: bool) -> None:
    if admin == (tenant is not None):
        raise InputRefused("Say whose key it is: --tenant SLUG, or --admin for an operator's.")


def _expiry(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
        if _DAY.fullmatch(text):
            at += timedelta(days=1)
    except (ValueError, OverflowError):
        raise InputRefused(f"{text!r} is no date; write it as 2027-06-30 or 2027-06-30T12:00.") from None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    if at <= datetime.now(UTC):
        raise InputRefused(f"{text} is over; a key must expire in the future.")
    return at


def _network(text: str) -> "Network":
    from ipaddress import ip_network

    try:
        return ip_network(text)
    except ValueError as exc:
        raise InputRefused(f"{text!r} is no network such as 10.0.0.0/8: {exc}.") from None
