"""`keys`: what callers prove themselves with."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from app.cli.confirmed import wait_if_asked
from app.cli.control import control_plane
from app.cli.failure import InputRefused
from app.cli.key_lines import (
    NOT_IN_PATHS,
    KeyLine,
    NewKey,
    expiry_meant,
    key_line,
    key_table,
    name_meant,
    networks_meant,
    revoked_everywhere,
    shown_reference,
)
from app.cli.keys_change import rotate, set_
from app.cli.options import COMMON, Common
from app.cli.output import say, show_json, show_table
from app.cli.people import find_key, find_tenant

if TYPE_CHECKING:
    from app.cli.control.port import ControlPlane
    from domain.tenants import Tenant

app = App(
    name="keys",
    help="""Create, list, change, rotate and revoke API keys.

Example: `neuronetz-gateway keys create laptop --tenant research`
""",
)

app.command(rotate)
app.command(set_, name="set")


@app.command
async def create(
    name: str,
    /,
    *,
    tenant: str | None = None,
    admin: bool = False,
    expires: str | None = None,
    network: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    allow_path: bool = False,
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
        it says otherwise). Default: never.
    network
        Only callers from there may use it, such as 10.0.0.0/8; may be repeated.
    allow_path
        It may also stand in paths, /k/KEY/..., for clients that can send no header; GATEWAY_PATH_KEYS must be on.
    """
    _check_owner(tenant, admin=admin)
    if admin and allow_path:
        raise InputRefused(NOT_IN_PATHS)
    name = name_meant(name)
    expires_at = None if expires is None else expiry_meant(expires)
    networks = networks_meant(network)
    async with control_plane(common) as control:
        owner = None if tenant is None else await find_tenant(control, tenant, common)
        issued = await control.keys.create(
            owner, name, expires_at=expires_at, allowed_networks=networks, path_allowed=allow_path
        )
        usable = owner is None or owner.allow_all_models or bool(await control.grants.list(owner))
        url = control.gateway_url
    if common.json:
        show_json(NewKey(issued.minted.reveal(), key_line(issued.summary, tenant)))
        return
    say(f"Key {name} of {_owner(owner)}. It is not shown again; only its digest is kept.")
    print(issued.minted.reveal(), flush=True)
    if owner is None:
        say("It is an admin key: routes for tenants refuse it.")
        return
    say("Try it:", "  export NNG_KEY=...", _curl(url))
    if allow_path:
        say(
            "Or, where GATEWAY_PATH_KEYS is on:",
            f"  OLLAMA_HOST={url}/k/$NNG_KEY ollama list",
        )
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
    if tenant is not None and admin:
        raise InputRefused("An admin key has no tenant: give --tenant or --admin, not both.")
    async with control_plane(common) as control:
        lines = await _lines(control, tenant, common, admin=admin)
    if common.json:
        show_json({"keys": lines})
        return
    if not lines:
        say("There are no such keys yet:", f"  {common.command('keys create NAME --tenant SLUG')}")
        return
    show_table(key_table(lines))


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
    from domain.tenants import KeyStatus

    reference = shown_reference(key)
    async with control_plane(common, waits=wait) as control:
        found = await find_key(control, reference, common)
        before, revoked = await control.keys.revoke(found)
        waited = await wait_if_asked(control, waits=wait)
    was_active = before.status is KeyStatus.ACTIVE
    if common.json:
        show_json({"key": key_line(revoked, found.slug), "changed": was_active} | waited.fields)
        return waited.code
    if was_active:
        print(
            f"Key {revoked.prefix} ({revoked.name}) is revoked."
            f"{'' if waited.asked else f' {revoked_everywhere()}'}"
        )
    else:
        print(f"Key {revoked.prefix} ({revoked.name}) was revoked before; nothing changed.")
    waited.show()
    return waited.code


async def _lines(
    control: "ControlPlane", tenant: str | None, common: Common, *, admin: bool
) -> list[KeyLine]:
    if tenant is not None:
        owner = await find_tenant(control, tenant, common)
        return [key_line(key, owner.slug) for key in await control.keys.list(owner)]
    if admin:
        return [key_line(key, None) for key in await control.keys.list(None)]
    # They come oldest first, and stay so within each owner's.
    found = sorted(await control.keys.every(), key=lambda each: each.slug or "")
    return [key_line(*each) for each in found]


def _owner(tenant: "Tenant | None") -> str:
    return "the operators" if tenant is None else f"tenant {tenant.slug}"


def _curl(url: str) -> str:
    return f'  curl {url}/api/tags -H "Authorization: Bearer $NNG_KEY"'


def _check_owner(tenant: str | None, *, admin: bool) -> None:
    if admin == (tenant is not None):
        raise InputRefused("Say whose key it is: --tenant SLUG, or --admin for an operator's.")
