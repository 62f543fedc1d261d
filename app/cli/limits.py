"""`limits`: how much a tenant and its keys may use, per minute, at the same time, per day and per month."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec
from cyclopts import App

from app.cli.control import control_plane
from app.cli.failure import CommandFailed, InputRefused
from app.cli.key_lines import shown_reference
from app.cli.options import COMMON, Common
from app.cli.output import NOTHING, Table, show_json, show_table
from app.cli.people import find_tenant, key_of_tenant

if TYPE_CHECKING:
    from app.cli.control.port import ControlPlane
    from domain.limits import LimitKind, Limits
    from domain.tenants import Tenant

app = App(
    name="limits",
    help="""Limit requests, tokens and concurrency of tenants and keys.

Example: `neuronetz-gateway limits show --tenant research`
""",
)

NO_LIMIT = "none"
_HEADINGS = ("tenant", "key", "requests/min", "tokens/min", "concurrent", "tokens/day", "tokens/month")


class LimitsLine(msgspec.Struct, frozen=True):
    """The limits of one level as this command prints them; `key` None means all keys of the tenant together."""

    key: str | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int | None
    tokens_per_day: int | None
    tokens_per_month: int | None


class TenantLimits(msgspec.Struct, frozen=True):
    """What one tenant may use, and then each of its keys that has limits of its own."""

    tenant: str
    limits: tuple[LimitsLine, ...]


@app.command(name="set")
async def set_(
    *,
    tenant: str,
    key: str | None = None,
    requests_per_minute: str | None = None,
    tokens_per_minute: str | None = None,
    concurrency: str | None = None,
    tokens_per_day: str | None = None,
    tokens_per_month: str | None = None,
    common: Common = COMMON,
) -> None:
    """Set some limits and leave the others. They hold for new requests within moments.

    All limits of a key and of its tenant must have room for a request. Each takes a number, or `none`.

    Example: `neuronetz-gateway limits set --tenant research --requests-per-minute 600 --tokens-per-day 2000000`

    Parameters
    ----------
    tenant
        Slug of the tenant, whose keys share what is set.
    key
        Prefix of one of its keys, to which alone the limits apply.
    requests_per_minute
        A whole minute's worth may come at once; it refills evenly.
    tokens_per_minute
        Tokens of prompts and answers together, refilled evenly.
    concurrency
        Requests that may run at the same time.
    tokens_per_day
        From midnight to midnight in the tenant's time zone.
    tokens_per_month
        From the first of a month to the next in the tenant's time zone.
    """
    from domain.limits import LimitKind

    typed = {
        LimitKind.REQUESTS_PER_MINUTE: requests_per_minute,
        LimitKind.TOKENS_PER_MINUTE: tokens_per_minute,
        LimitKind.CONCURRENCY: concurrency,
        LimitKind.TOKENS_PER_DAY: tokens_per_day,
        LimitKind.TOKENS_PER_MONTH: tokens_per_month,
    }
    changes = {kind: _number(kind, text) for kind, text in typed.items() if text is not None}
    if not changes:
        raise InputRefused("Name at least one limit, such as --requests-per-minute 600.")
    reference = None if key is None else shown_reference(key)
    async with control_plane(common) as control:
        owner = await find_tenant(control, tenant, common)
        with key_of_tenant(owner, reference, common):
            before, limits = await control.limits.set(owner, reference, changes)
    changed = before != limits
    if common.json:
        show_json({"tenant": tenant, "changed": changed, "limits": _line(reference, limits)})
        return
    where = _where(tenant, reference)
    if not changed:
        print(f"{where} had these limits before; nothing changed.")
        return
    print(f"{where}: {_told(changes)}.")


@app.command
async def clear(*, tenant: str, key: str | None = None, common: Common = COMMON) -> None:
    """Take all limits of a tenant or of one key away; those of the other level stay.

    Example: `neuronetz-gateway limits clear --tenant research --key nng_4fT9xQ2b`

    Parameters
    ----------
    tenant
        Slug of the tenant.
    key
        Prefix of the key whose own limits to take away.
    """
    reference = None if key is None else shown_reference(key)
    async with control_plane(common) as control:
        owner = await find_tenant(control, tenant, common)
        with key_of_tenant(owner, reference, common):
            changed = await control.limits.clear(owner, reference)
    where = _where(tenant, reference)
    if not changed:
        shown = common.command(f"limits show --tenant {tenant}")
        raise CommandFailed(f"{where} has no limits; `{shown}` shows those there are.")
    if common.json:
        show_json({"tenant": tenant, "key": reference, "changed": changed})
        return
    print(f"{where} has no limits of its own any more.")


@app.command
async def show(*, tenant: str | None = None, key: str | None = None, common: Common = COMMON) -> None:
    """Show what tenants may use, and those of their keys that have limits of their own.

    Example: `neuronetz-gateway limits show --tenant research`

    Parameters
    ----------
    tenant
        Slug of the tenant whose limits to show, its keys' included. Default: everybody's.
    key
        Prefix of one of its keys, to show that key's own limits alone.
    """
    if key is not None and tenant is None:
        raise InputRefused("Say whose key it is with --tenant.")
    reference = None if key is None else shown_reference(key)
    async with control_plane(common) as control:
        owners = (await find_tenant(control, tenant, common),) if tenant else await control.tenants.list()
        found = []
        for owner in owners:
            with key_of_tenant(owner, reference, common):
                found.append(await limits_of(control, owner, reference))
    if common.json:
        show_json({"tenants": found})
        return
    show_table(limits_table(found))


def limits_table(found: Iterable[TenantLimits]) -> Table:
    """Return the limits of tenants as a table."""
    rows = [_row(limits.tenant, line) for limits in found for line in limits.limits]
    return Table(_HEADINGS, rows, numbers=frozenset(range(2, len(_HEADINGS))))


def _number(kind: "LimitKind", text: str) -> int | None:
    from domain.tenants import LimitInvalid, checked_limit

    option = f"--{kind.value.replace('_', '-')}"
    if text.lower() == NO_LIMIT:
        return None
    try:
        return checked_limit(kind, int(text))
    except LimitInvalid as refusal:
        raise InputRefused(f"{str(refusal).replace(kind.value, option, 1)}.") from None
    except ValueError:
        raise InputRefused(f"{option} takes a whole number, or none.") from None


async def limits_of(control: "ControlPlane", owner: "Tenant", reference: str | None = None) -> TenantLimits:
    """Return the limits of a tenant and its keys, or those of one key alone."""
    if reference is not None:
        return TenantLimits(owner.slug, (_line(reference, await control.limits.get(owner, reference)),))
    levels = await control.limits.list(owner)
    prefixes = {key.id: key.prefix for key in await control.keys.list(owner)}
    return TenantLimits(
        owner.slug,
        tuple(
            _line(None if found.key_id is None else prefixes[found.key_id], found.limits) for found in levels
        ),
    )


def _line(key: str | None, limits: "Limits") -> LimitsLine:
    return LimitsLine(
        key,
        limits.requests_per_minute,
        limits.tokens_per_minute,
        limits.concurrency,
        limits.tokens_per_day,
        limits.tokens_per_month,
    )


def _row(tenant: str, line: LimitsLine) -> tuple[str, ...]:
    numbers = (
        line.requests_per_minute,
        line.tokens_per_minute,
        line.concurrency,
        line.tokens_per_day,
        line.tokens_per_month,
    )
    return (
        tenant,
        line.key or "(all keys)",
        *(NOTHING if number is None else f"{number:,}" for number in numbers),
    )


def _told(changes: "Mapping[LimitKind, int | None]") -> str:
    return ", ".join(
        f"{kind.value} is now {NO_LIMIT if value is None else f'{value:,}'}"
        for kind, value in changes.items()
    )


def _where(tenant: str, reference: str | None) -> str:
    return f"Tenant {tenant}" if reference is None else f"Key {reference} of tenant {tenant}"
