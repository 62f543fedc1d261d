"""Who types, and whom they mean: the actor of a change, tenants by their slug, and keys by their prefix."""

import getpass
import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from app.cli.failure import CommandFailed
from app.cli.options import Common

if TYPE_CHECKING:
    from db.keys import Keys
    from db.postgres import UnitOfWork
    from domain.tenants import Actor, KeySummary, Tenant

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


async def find_tenant(work: "UnitOfWork", slug: str, common: Common) -> "Tenant":
    """Return a tenant by its slug.

    Raises
    ------
    CommandFailed
        There is none; the sentence says which there are.
    """
    from domain.tenants import TenantUnknown

    try:
        return await work.tenants.get(slug)
    except TenantUnknown:
        known = [tenant.slug for tenant in await work.tenants.list()]
    if not known:
        create = common.command("tenants create SLUG")
        raise CommandFailed(f"There is no tenant {slug!r}, nor any other: `{create}` makes one.")
    raise CommandFailed(f"There is no tenant {slug!r}; {_suggestion(slug, known)}")


@dataclass(frozen=True)
class KeyFound:
    """A key as it stands, its owner's slug (None: the operators), and the keys it is one of."""

    summary: "KeySummary"
    tenant: str | None
    siblings: "Keys"


async def find_key(work: "UnitOfWork", reference: str, common: Common) -> KeyFound:
    """Return a key by its prefix or id, whoever owns it.

    Raises
    ------
    CommandFailed
        Nobody has it.
    """
    from domain.tenants import KeyUnknown

    try:
        owner = await work.tenants.owner_of_key(reference)
        keys = work.keys(owner)
        summary = await keys.get(reference)
    except KeyUnknown:
        listed = common.command("keys list")
        raise CommandFailed(f"There is no key {reference}; `{listed}` shows their prefixes.") from None
    tenant = next((each.slug for each in await work.tenants.list() if each.id == owner), None)
    return KeyFound(summary, tenant, keys)


def _suggestion(slug: str, known: Sequence[str]) -> str:
    close = get_close_matches(slug, known, n=_MAX_SUGGESTIONS)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(known) - _MAX_SUGGESTIONS} more" if len(known) > _MAX_SUGGESTIONS else ""
    return f"there are {', '.join(known[:_MAX_SUGGESTIONS])}{more}."
