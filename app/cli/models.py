"""`models`: which models a tenant or one of its keys may use."""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from cyclopts import App

from app.cli.control import control_plane
from app.cli.failure import CommandFailed, InputRefused
from app.cli.key_lines import shown_reference
from app.cli.options import COMMON, Common
from app.cli.output import NOTHING, Table, moment, say, show_json, show_table
from app.cli.people import find_tenant, key_of_tenant

if TYPE_CHECKING:
    from app.cli.control.port import ControlPlane
    from domain.tenants import Tenant

app = App(
    name="models",
    help="""Grant models to tenants and keys (`list-models` shows what is hosted).

Example: `neuronetz-gateway models allow llama3.2 --tenant research`
""",
)


class GrantLine(msgspec.Struct, frozen=True):
    """One grant as this command prints it; `key` None means the whole tenant."""

    pattern: str
    key: str | None
    created_at: datetime


class TenantModels(msgspec.Struct, frozen=True):
    """What one tenant may use."""

    tenant: str
    allow_all_models: bool
    grants: tuple[GrantLine, ...]


@app.command
async def allow(pattern: str, /, *, tenant: str, key: str | None = None, common: Common = COMMON) -> None:
    """Grant models to a tenant, or to one of its keys.

    A key without grants of its own may use what its tenant may; a grant narrows it to what it names.

    Example: `neuronetz-gateway models allow 'llama3*' --tenant research`

    Parameters
    ----------
    pattern
        A model's name, or a pattern with * and ? (in quotes, so that the shell leaves it alone).
    tenant
        Slug of the tenant.
    key
        Prefix of one of its keys, which alone gets the grant.
    """
    from domain.model_names import is_cloud

    normal = _checked(pattern)
    reference = None if key is None else shown_reference(key)
    async with control_plane(common) as control:
        owner = await find_tenant(control, tenant, common)
        with key_of_tenant(owner, reference, common):
            changed = await control.grants.allow(owner, normal, reference)
    if common.json:
        show_json({"tenant": tenant, "key": reference, "pattern": normal, "changed": changed})
        return
    holder = _holder(tenant, reference)
    if is_cloud(normal):
        say(
            "Models of Ollama's cloud are refused all the same unless a backend that lists them has allow_cloud."
        )
    print(f"{holder} may use {normal}." if changed else f"{holder} had this grant before: {normal}.")
    if owner.allow_all_models and reference is None:
        say(f"Tenant {tenant} may use all models anyway.")


@app.command
async def disallow(pattern: str, /, *, tenant: str, key: str | None = None, common: Common = COMMON) -> None:
    """Take a grant back, named exactly as `models list` shows it.

    Example: `neuronetz-gateway models disallow 'llama3*' --tenant research`

    Parameters
    ----------
    pattern
        The model's name or the pattern that was granted.
    tenant
        Slug of the tenant.
    key
        Prefix of the key that holds the grant; without it, the tenant's own grant is meant.
    """
    normal = _checked(pattern)
    reference = None if key is None else shown_reference(key)
    async with control_plane(common) as control:
        owner = await find_tenant(control, tenant, common)
        with key_of_tenant(owner, reference, common):
            changed = await control.grants.disallow(owner, normal, reference)
            grants = await control.grants.list(owner, reference)
    left = [grant.pattern for grant in grants if reference is not None or grant.key_id is None]
    holder = _holder(tenant, reference)
    if not changed:
        raise CommandFailed(f"{holder} has no grant {normal!r}; it has {_listed(left)}.")
    if common.json:
        show_json(
            {"tenant": tenant, "key": reference, "pattern": normal, "changed": changed, "grants_left": left}
        )
        return
    print(f"{holder} has no grant {normal} any more.")
    say(_consequence(owner, left, reference))


@app.command(name="list")
async def list_(*, tenant: str | None = None, key: str | None = None, common: Common = COMMON) -> None:
    """List grants.

    Example: `neuronetz-gateway models list --tenant research`

    Parameters
    ----------
    tenant
        Slug of the tenant whose grants to list. Default: everybody's.
    key
        Prefix of one of its keys, to list what that key alone was granted.
    """
    if key is not None and tenant is None:
        raise InputRefused("Say whose key it is with --tenant.")
    reference = None if key is None else shown_reference(key)
    async with control_plane(common) as control:
        owners = (await find_tenant(control, tenant, common),) if tenant else await control.tenants.list()
        found = []
        for owner in owners:
            with key_of_tenant(owner, reference, common):
                found.append(await models_of(control, owner, reference))
    if common.json:
        show_json({"tenants": found})
        return
    table = models_table(found)
    if not table.rows:
        say("Nothing is granted yet:", f"  {common.command('models allow MODEL --tenant SLUG')}")
        return
    show_table(table)


def models_table(found: Iterable[TenantModels]) -> Table:
    """Return what tenants may use as a table."""
    return Table(
        ("tenant", "key", "models", "since (UTC)"), [row for models in found for row in _rows(models)]
    )


def _checked(pattern: str) -> str:
    from domain.tenants import PatternInvalid, checked_pattern

    try:
        return checked_pattern(pattern)
    except PatternInvalid:
        raise InputRefused(
            f"{pattern!r} is no model name such as llama3.2:latest, nor a pattern such as 'llama3*'."
        ) from None


async def models_of(control: "ControlPlane", owner: "Tenant", reference: str | None = None) -> TenantModels:
    """Return the grants of a tenant and its keys, or those of one key alone."""
    grants = await control.grants.list(owner, reference)
    prefixes = {key.id: key.prefix for key in await control.keys.list(owner)}
    return TenantModels(
        tenant=owner.slug,
        allow_all_models=owner.allow_all_models,
        grants=tuple(
            GrantLine(
                grant.pattern, None if grant.key_id is None else prefixes[grant.key_id], grant.created_at
            )
            for grant in grants
        ),
    )


def _rows(models: TenantModels) -> Iterable[tuple[str, ...]]:
    if models.allow_all_models:
        yield models.tenant, "(all keys)", "(all models)", NOTHING
    for grant in models.grants:
        yield models.tenant, grant.key or "(all keys)", grant.pattern, moment(grant.created_at)


def _holder(tenant: str, reference: str | None) -> str:
    return f"Tenant {tenant}" if reference is None else f"Key {reference} of tenant {tenant}"


def _listed(patterns: list[str]) -> str:
    return ", ".join(patterns) or "none"


def _consequence(owner: "Tenant", left: list[str], reference: str | None) -> str:
    if reference is not None and not left:
        return "It has no grants of its own left, so it may use whatever its tenant may."
    if reference is None and owner.allow_all_models:
        return "It may use all models anyway."
    return f"Grants left: {_listed(left)}."
