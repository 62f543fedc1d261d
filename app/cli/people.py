"""Who types, and whom they mean: the actor of a change, tenants by their slug, and keys by their prefix."""

import getpass
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

from app.cli.failure import CommandFailed
from app.cli.options import Common

if TYPE_CHECKING:
    from app.cli.control.port import ControlPlane, KeyFound
    from domain.tenants import Actor, Tenant

_MAX_SUGGESTIONS = 8


def actor() -> "Actor":
    """Return who changes something from this command line, for the audit log."""
    from domain.tenants import Actor

    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        # A container's user id need not have a name.
        name = f"uid-{os.geteuid()}"
    return Actor(f"cli:{name}")


async def find_tenant(control: "ControlPlane", slug: str, common: Common) -> "Tenant":
    """Return a tenant by its slug.

    Raises
    ------
    CommandFailed
        There is none; the sentence says which there are.
    """
    from domain.tenants import TenantUnknown

    try:
        return await control.tenants.get(slug)
    except TenantUnknown:
        known = [tenant.slug for tenant in await control.tenants.list()]
    if not known:
        create = common.command("tenants create SLUG")
        raise CommandFailed(f"There is no tenant {slug!r}, nor any other: `{create}` makes one.")
    raise CommandFailed(f"There is no tenant {slug!r}; {_suggestion(slug, known)}")


async def find_key(control: "ControlPlane", reference: str, common: Common) -> "KeyFound":
    """Return a key by its prefix or id, whoever owns it.

    Raises
    ------
    CommandFailed
        Nobody has it.
    """
    from domain.tenants import KeyUnknown

    try:
        return await control.keys.find(reference)
    except KeyUnknown:
        listed = common.command("keys list")
        raise CommandFailed(f"There is no key {reference}; `{listed}` shows their prefixes.") from None


@contextmanager
def key_of_tenant(tenant: "Tenant", reference: str | None, common: Common) -> Iterator[None]:
    """Say in a sentence that a tenant has no such key, if that is what the block fails with.

    Raises
    ------
    CommandFailed
        It has none.
    """
    from domain.tenants import KeyUnknown

    try:
        yield
    except KeyUnknown:
        listed = common.command(f"keys list --tenant {tenant.slug}")
        raise CommandFailed(
            f"Tenant {tenant.slug} has no key {reference}; `{listed}` shows its keys."
        ) from None


def _suggestion(slug: str, known: Sequence[str]) -> str:
    close = get_close_matches(slug, known, n=_MAX_SUGGESTIONS)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(known) - _MAX_SUGGESTIONS} more" if len(known) > _MAX_SUGGESTIONS else ""
    return f"there are {', '.join(known[:_MAX_SUGGESTIONS])}{more}."
