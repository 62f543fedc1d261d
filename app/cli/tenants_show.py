"""`tenants show`: all there is to know about one tenant."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from app.cli.control import control_plane
from app.cli.key_lines import key_line, key_table
from app.cli.limits import limits_of, limits_table
from app.cli.models import models_of, models_table
from app.cli.options import COMMON, Common
from app.cli.output import moment, show_json, show_table
from app.cli.people import find_tenant

if TYPE_CHECKING:
    from domain.tenants import Tenant


async def show(tenant: str, /, *, common: Common = COMMON) -> None:
    """Show a tenant: its state, limits and grants, and its keys with their last use.

    Example: `neuronetz-gateway tenants show research`

    Parameters
    ----------
    tenant
        Its slug.
    """
    async with control_plane(common) as control:
        owner = await find_tenant(control, tenant, common)
        limits = await limits_of(control, owner)
        models = await models_of(control, owner)
        keys = [key_line(key, owner.slug) for key in await control.keys.list(owner)]
    if common.json:
        show_json({"tenant": owner, "limits": limits.limits, "grants": models.grants, "keys": keys})
        return
    print(*_described(owner, common), sep="\n", end="\n\n")
    show_table(limits_table([limits]))
    grant, create = f"models allow MODEL --tenant {tenant}", f"keys create NAME --tenant {tenant}"
    for table, nothing, remedy in (
        (models_table([models]), "It may use no model yet:", grant),
        (key_table(keys), "It has no key yet:", create),
    ):
        print()
        if table.rows:
            show_table(table)
        else:
            print(nothing, f"  {common.command(remedy)}", sep="\n")


def _described(tenant: "Tenant", common: Common) -> Iterator[str]:
    from domain.tenants import TenantStatus

    yield (
        f"Tenant {tenant.slug} ({tenant.name}) is {tenant.status.value}. Created {moment(tenant.created_at)} UTC,"
        f" its days begin by the clocks of {tenant.time_zone}."
    )
    if tenant.status is TenantStatus.SUSPENDED:
        activate = common.command(f"tenants activate {tenant.slug}")
        yield f"All its keys are refused; `{activate}` lets it back in."
