"""`audit`: who changed what, and who logged in or failed to."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from app.cli.control import control_plane
from app.cli.failure import InputRefused
from app.cli.key_lines import shown_reference
from app.cli.moments import moment_meant
from app.cli.options import COMMON, Common
from app.cli.output import NOTHING, Table, count_of, say, show_json, show_table
from app.cli.people import find_key, find_tenant

if TYPE_CHECKING:
    from domain.tenants import AuditEvent

DEFAULT_EVENTS: Final = 50
MOST_EVENTS: Final = 100_000

_SAID_ELSEWHERE: Final = frozenset(
    {"id", "tenant_id", "prefix", "slug", "backend", "at", "by", "created_at", "last_used_at"}
)
"""What names the subject, or when it was made or by whom."""
_OF_SEVERAL: Final = frozenset({"attempts", "first_at", "last_at"})
"""What an event about one failed login says as well; `when` says it better."""


async def audit(
    *,
    tenant: str | None = None,
    key: str | None = None,
    action: str | None = None,
    by: str | None = None,
    since: str | None = None,
    until: str | None = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=MOST_EVENTS))] = DEFAULT_EVENTS,
    common: Common = COMMON,
) -> None:
    """Show who changed what and who logged in or failed to, newest first.

    Example: `neuronetz-gateway audit --tenant research --since 7d`

    Parameters
    ----------
    tenant
        Slug of a tenant: what was done to the tenant itself, its limits, grants and policies.
    key
        Prefix or id of a key: what was done to that key.
    action
        What was done, such as key.revoke or admin.login_failed.
    by
        Who did it: an admin key's prefix, or `cli:` and a user's name.
    since
        First day or moment: 2026-11-01, 2026-11-01T12:00 (UTC unless it says otherwise), or 7d, 24h, 30m ago.
        Default: from the beginning.
    until
        Last day, which counts whole, or the moment before which events count. Default: now.
    limit
        How many to show at most.
    """
    from domain.tenants import AuditFilter

    if tenant is not None and key is not None:
        raise InputRefused("Give --tenant or --key, not both: an event is about one of them.")
    reference = None if key is None else shown_reference(key)
    now = datetime.now(UTC)
    start = None if since is None else moment_meant(since, now=now)
    end = None if until is None else moment_meant(until, now=now, whole_day=True)
    async with control_plane(common) as control:
        subject = None
        if tenant is not None:
            subject = f"tenant:{(await find_tenant(control, tenant, common)).id}"
        if reference is not None:
            subject = f"key:{(await find_key(control, reference, common)).summary.id}"
        # One more than is shown, to know whether there are more.
        found = await control.audit(AuditFilter(subject, action, by, start, end), limit + 1)
        slugs = {f"tenant:{each.id}": each.slug for each in await control.tenants.list()}
    events = found[:limit]
    if common.json:
        show_json({"events": events, "more": len(found) > limit})
        return
    if not events:
        say("There are no such events.")
        return
    headings = ("when (UTC)", "who", "what", "of", "change", "from")
    show_table(Table(headings, [_row(event, slugs) for event in events]))
    if len(found) > limit:
        say(f"Older events are left out; --limit shows more than {count_of(limit, 'event')}.")


def _row(event: "AuditEvent", slugs: Mapping[str, str]) -> tuple[str, ...]:
    return (
        f"{event.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
        event.actor,
        event.action,
        _subject(event, slugs),
        "; ".join(_changes(event.before or {}, event.after or {})) or NOTHING,
        event.address or NOTHING,
    )


def _subject(event: "AuditEvent", slugs: Mapping[str, str]) -> str:
    """Return the name by which operators know what an event is about, as far as it can be told."""
    if event.subject in slugs:
        return f"tenant {slugs[event.subject]}"
    prefix = (event.after or event.before or {}).get("prefix")
    return f"key {prefix}" if event.subject.startswith("key:") and prefix else event.subject


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is different, in the order in which it is stored; what is new or gone is told by what it has."""
    left_out = _SAID_ELSEWHERE | (_OF_SEVERAL if after.get("attempts") == 1 else frozenset())
    for name in {**before, **after}:
        was, now = before.get(name), after.get(name)
        if was == now or name in left_out or not (was or now or (before and after)):
            continue
        if not before or was is None:
            yield f"{name} {_told(now)}"
        elif not after:
            yield f"{name} was {_told(was)}"
        else:
            yield f"{name} {_told(was)} -> {_told(now)}"


def _told(found: Any) -> str:
    if found is None:
        return "none"
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, Mapping):
        return ", ".join(f"{name}={_told(each)}" for name, each in found.items()) or "{}"
    if isinstance(found, list | tuple):
        return ", ".join(map(_told, found)) or "[]"
    return str(found)
