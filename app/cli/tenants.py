"""`tenants`: who may have keys."""

from typing import TYPE_CHECKING

from cyclopts import App

from app.cli.control import control_plane
from app.cli.failure import CommandFailed, InputRefused, sentence
from app.cli.options import COMMON, Common
from app.cli.output import Table, moment, say, show_json, show_table
from app.cli.tenants_change import activate, set_, suspend
from app.cli.tenants_show import show

if TYPE_CHECKING:
    from domain.tenants import Tenant

app = App(
    name="tenants",
    help="""Create, show, change and suspend tenants: the owners of keys, grants and usage.

Example: `neuronetz-gateway tenants create research`
""",
)
app.command(show)
app.command(set_, name="set")
app.command(suspend)
app.command(activate)


@app.command
async def create(
    slug: str,
    /,
    *,
    name: str | None = None,
    time_zone: str = "UTC",
    all_models: bool = False,
    common: Common = COMMON,
) -> None:
    """Create a tenant.

    It may use no model until it is told so, unless --all-models is given.

    Example: `neuronetz-gateway tenants create research --name "Research lab" --time-zone Europe/Berlin`

    Parameters
    ----------
    slug
        Its short name in commands, logs and reports: a-z, 0-9 and dashes.
    name
        Its name for people. Default: the slug.
    time_zone
        Decides when its days and months begin, such as Europe/Berlin.
    all_models
        Let it use every model, also those that come later.
    """
    from domain.tenants import NameMissing, SlugInvalid, SlugTaken, TimeZoneUnknown

    try:
        async with control_plane(common) as control:
            tenant = await control.tenants.create(
                slug, slug if name is None else name, time_zone=time_zone, allow_all_models=all_models
            )
    except (SlugInvalid, NameMissing, TimeZoneUnknown) as refusal:
        raise InputRefused(sentence(refusal)) from None
    except SlugTaken as refusal:
        raise CommandFailed(sentence(refusal)) from None
    if common.json:
        show_json({"tenant": tenant})
        return
    print(f"Tenant {tenant.slug} is created.")
    if not all_models:
        say("It may use no model yet:", f"  {common.command(f'models allow MODEL --tenant {slug}')}")
    say("A key for it:", f"  {common.command(f'keys create NAME --tenant {slug}')}")


@app.command(name="list")
async def list_(*, common: Common = COMMON) -> None:
    """List all tenants.

    Example: `neuronetz-gateway tenants list --json`
    """
    async with control_plane(common) as control:
        tenants = await control.tenants.list()
    if common.json:
        show_json({"tenants": tenants})
        return
    if not tenants:
        say("There are no tenants yet:", f"  {common.command('tenants create SLUG')}")
        return
    show_table(
        Table(
            ("tenant", "name", "status", "models", "time zone", "created (UTC)"), [_row(t) for t in tenants]
        )
    )


def _row(tenant: "Tenant") -> tuple[str, ...]:
    models = "all" if tenant.allow_all_models else "as granted"
    return (
        tenant.slug,
        tenant.name,
        tenant.status.value,
        models,
        tenant.time_zone,
        moment(tenant.created_at),
    )
