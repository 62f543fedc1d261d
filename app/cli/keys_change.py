"""`keys set` and `keys rotate`: changing a key, and replacing it by another."""

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from app.cli.confirmed import wait_if_asked
from app.cli.control import control_plane
from app.cli.failure import CommandFailed, InputRefused, sentence
from app.cli.key_lines import (
    ANYWHERE,
    NOT_IN_PATHS,
    KeyLine,
    expiry_meant,
    key_line,
    name_meant,
    networks_meant,
    overlap_meant,
    revoked_everywhere,
    shown_reference,
)
from app.cli.options import COMMON, Common
from app.cli.output import moment, say, show_json
from app.cli.people import find_key

if TYPE_CHECKING:
    from domain.tenants import Rotation


async def rotate(
    key: str,
    /,
    *,
    overlap: Annotated[str, Parameter(allow_leading_hyphen=True)] = "24h",
    expires: str | None = None,
    common: Common = COMMON,
) -> None:
    """Replace a key by a new one with the same rights, and let the old one end.

    It has the name, networks, limits, grants and policies of the old one, and its expiry unless --expires gives it
    another. The new key alone goes to standard output, so that a script can take it.

    Example: `neuronetz-gateway keys rotate nng_4fT9xQ2b --overlap 7d`

    Parameters
    ----------
    key
        Prefix of the key to replace (`nng_` and eight characters, as `keys list` shows it), or its id.
    overlap
        How long the old key still works, but never longer than it would have: 7d, 24h, 30m; 0 revokes it at once.
    expires
        Last day the new key works, or the moment it ends: 2027-06-30, 2027-06-30T12:00, or never. Default: as
        the old key.
    """
    from msgspec import UNSET

    from domain.tenants import ControlError

    reference = shown_reference(key)
    overlapping = overlap_meant(overlap)
    expires_at = UNSET if expires is None else expiry_meant(expires)
    async with control_plane(common) as control:
        found = await find_key(control, reference, common)
        try:
            rotation = await control.keys.rotate(found, overlap=overlapping, expires_at=expires_at)
        except ControlError as refusal:
            raise CommandFailed(sentence(refusal)) from None
    new, old = rotation.issued, rotation.replaced
    if common.json:
        show_json(
            {
                "key": new.minted.reveal(),
                "summary": key_line(new.summary, found.slug),
                "replaced": key_line(old, found.slug),
            }
        )
        return
    say(f"Key {new.summary.prefix} ({new.summary.name}) replaces {old.prefix}. It is not shown again.")
    print(new.minted.reveal(), flush=True)
    say(*_ends(rotation, common))


async def set_(
    key: str,
    /,
    *,
    name: str | None = None,
    expires: str | None = None,
    network: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    paths: Literal["on", "off"] | None = None,
    wait: bool = False,
    common: Common = COMMON,
) -> int:
    """Change a key's name, its expiry, its networks or whether it may stand in paths, and leave the rest.

    It holds everywhere within 2 seconds, and streams of callers who could not start them any more are cut.

    Example: `neuronetz-gateway keys set nng_4fT9xQ2b --expires 2027-06-30 --network 10.0.0.0/8`

    Parameters
    ----------
    key
        Its prefix (`nng_` and eight characters, as `keys list` shows it) or its id.
    name
        What it is for.
    expires
        Last day it works, which counts whole, or the moment it ends: 2027-06-30, 2027-06-30T12:00 (UTC unless
        it says otherwise), or never.
    network
        Only callers from there may use it, such as 10.0.0.0/8, in place of those before; may be repeated.
        `anywhere` lifts the restriction.
    paths
        Whether it may also stand in paths, /k/KEY/..., for clients that can send no header.
    wait
        Return when every running process has confirmed that it acts upon it; exit with 1 and name those that have
        not after 5 seconds.
    """
    from msgspec import UNSET

    from domain.tenants import ControlError, KeyChange

    if name is None and expires is None and not network and paths is None:
        raise InputRefused("Say what to change: --name, --expires, --network or --paths.")
    change = KeyChange(
        name=UNSET if name is None else name_meant(name),
        expires_at=UNSET if expires is None else expiry_meant(expires),
        allowed_networks=networks_meant(network) if network else UNSET,
        path_allowed=UNSET if paths is None else paths == "on",
    )
    reference = shown_reference(key)
    async with control_plane(common, waits=wait) as control:
        found = await find_key(control, reference, common)
        if paths == "on" and found.slug is None:
            raise InputRefused(NOT_IN_PATHS)
        try:
            was, after = await control.keys.change(found, change)
        except ControlError as refusal:
            raise CommandFailed(sentence(refusal)) from None
        waited = await wait_if_asked(control, waits=wait)
    before, now = key_line(was, found.slug), key_line(after, found.slug)
    if common.json:
        show_json({"key": now, "changed": before != now} | waited.fields)
        return waited.code
    if before == now:
        print(f"Key {now.prefix} was like this before; nothing changed.")
    else:
        print(f"Key {now.prefix}: {', '.join(_differences(before, now))}.")
    waited.show()
    return waited.code


def _differences(before: KeyLine, now: KeyLine) -> list[str]:
    """Return what is different now, in words."""
    told = []
    if before.name != now.name:
        told.append(f"its name is now {now.name!r}")
    if before.expires_at != now.expires_at:
        ends = f"it ends at {moment(now.expires_at)} UTC" if now.expires_at else "it never ends by itself"
        told.append(ends)
    if before.allowed_networks != now.allowed_networks:
        told.append(f"it works from {', '.join(now.allowed_networks) or ANYWHERE}")
    if before.path_allowed != now.path_allowed:
        told.append("it may stand in paths" if now.path_allowed else "it may not stand in paths any more")
    return told


def _ends(rotation: "Rotation", common: Common) -> list[str]:
    """Return when the two keys of a rotation end, in sentences."""
    from domain.tenants import KeyStatus

    new, old = rotation.issued.summary, rotation.replaced
    if old.status is KeyStatus.REVOKED:
        told = [f"Key {old.prefix} is revoked. {revoked_everywhere()}"]
    else:
        told = [f"Key {old.prefix} works until {moment(old.expires_at)} UTC."]
    if new.expires_at is not None:
        told.append(f"The new key ends at {moment(new.expires_at)} UTC.")
        if old.expires_at is not None and new.expires_at <= old.expires_at:
            longer = common.command(f"keys set {new.prefix} --expires DATE")
            told.append(f"That is no later than the old one; `{longer}` gives it longer.")
    return told
