"""`tenants set`, `tenants suspend` and `tenants activate`: what can be changed about a tenant."""

from typing import TYPE_CHECKING, Literal

from app.cli.confirmed import wait_if_asked
from app.cli.control import control_plane
from app.cli.failure import InputRefused, sentence
from app.cli.key_lines import REVOKED_WITHIN_S
from app.cli.options import COMMON, Common
from app.cli.output import say, show_json
from app.cli.people import find_tenant

if TYPE_CHECKING:
    from domain.tenants import Tenant, TenantStatus


async def set_(
    tenant: str,
    /,
    *,
    name: str | None = None,
    time_zone: str | None = None,
    all_models: Literal["on", "off"] | None = None,
    common: Common = COMMON,
) -> None:
    """Change a tenant's name, its time zone, or whether all models are open to it.

    Example: `neuronetz-gateway tenants set research --time-zone Europe/Berlin --all-models off`

    Parameters
    ----------
    tenant
        Its slug, which stays.
    name
        Its name for people.
    time_zone
        Decides when its days and months begin, such as Europe/Berlin. Its quotas are counted anew from the ledger
        for the day and the month that it is there.
    all_models
        `on` lets it use every model, also those that come later; `off` leaves it what it was granted, and cuts
        streams of other models.
    """
    from msgspec import UNSET

    from domain.tenants import NameMissing, TenantChange, TimeZoneUnknown

    if name is None and time_zone is None and all_models is None:
        raise InputRefused("Say what to change: --name, --time-zone or --all-models.")
    change = TenantChange(
        name=UNSET if name is None else name,
        time_zone=UNSET if time_zone is None else time_zone,
        allow_all_models=UNSET if all_models is None else all_models == "on",
    )
    async with control_plane(common) as control:
        owner = await find_tenant(control, tenant, common)
        try:
            before, after = await control.tenants.change(tenant, change)
        except (NameMissing, TimeZoneUnknown) as refusal:
            raise InputRefused(sentence(refusal)) from None
        usable = after.allow_all_models or any(
            grant.key_id is None for grant in await control.grants.list(owner)
        )
    if common.json:
        show_json({"tenant": after, "changed": before != after})
        return
    if before == after:
        print(f"Tenant {tenant} was like this before; nothing changed.")
        return
    print(f"Tenant {tenant}: {', '.join(_differences(before, after))}.")
    if before.allow_all_models and not usable:
        say("It may use no model now:", f"  {common.command(f'models allow MODEL --tenant {tenant}')}")


async def suspend(tenant: str, /, *, wait: bool = False, common: Common = COMMON) -> int:
    """Refuse all keys of a tenant and cut its running streams, until it is activated again.

    Nothing else of it changes: keys, limits and grants stay.

    Example: `neuronetz-gateway tenants suspend research --wait`

    Parameters
    ----------
    tenant
        Its slug.
    wait
        Return when every running process has confirmed that it refuses the tenant and has cut its streams; exit
        with 1 and name those that have not after 5 seconds.
    """
    from domain.tenants import TenantStatus

    return await _set_status(
        tenant,
        TenantStatus.SUSPENDED,
        consequence=f"Its keys are refused everywhere within {REVOKED_WITHIN_S} seconds, and its streams are cut.",
        wait=wait,
        common=common,
    )


async def activate(tenant: str, /, *, wait: bool = False, common: Common = COMMON) -> int:
    """Let a suspended tenant back in.

    Example: `neuronetz-gateway tenants activate research`

    Parameters
    ----------
    tenant
        Its slug.
    wait
        Return when every running process has confirmed that it lets the tenant in; exit with 1 and name those that
        have not after 5 seconds.
    """
    from domain.tenants import TenantStatus

    return await _set_status(
        tenant,
        TenantStatus.ACTIVE,
        consequence=f"Its keys work again everywhere within {REVOKED_WITHIN_S} seconds.",
        wait=wait,
        common=common,
    )


async def _set_status(
    slug: str, status: "TenantStatus", *, consequence: str, wait: bool, common: Common
) -> int:
    async with control_plane(common, waits=wait) as control:
        await find_tenant(control, slug, common)
        before, after = await control.tenants.set_status(slug, status)
        waited = await wait_if_asked(control, waits=wait)
    changed = before != after
    if common.json:
        show_json({"tenant": after, "changed": changed} | waited.fields)
        return waited.code
    if not changed:
        print(f"Tenant {slug} was {status.value} before; nothing changed.")
    else:
        print(f"Tenant {slug} is {status.value}.{'' if waited.asked else f' {consequence}'}")
    waited.show()
    return waited.code


def _differences(before: "Tenant", after: "Tenant") -> list[str]:
    """Return what is different now, in words."""
    told = []
    if before.name != after.name:
        told.append(f"its name is now {after.name!r}")
    if before.time_zone != after.time_zone:
        told.append(f"its days and months begin by the clocks of {after.time_zone}")
    if before.allow_all_models != after.allow_all_models:
        told.append(
            "it may use all models" if after.allow_all_models else "it may use only what it was granted"
        )
    return told
