"""`/admin/v1/audit`: who changed what, and who logged in or failed to."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from litestar import Controller, get
from litestar.params import QueryParameter
from msgspec import Meta

from app.admin import paging
from app.admin.contract import Answered, Moment, utc
from app.admin.handed import Admin
from app.admin.wording import WORD
from app.cursors import cursor_at
from domain import tenants as domain
from domain.tenants import AuditFilter

_MAX_WORD_CHARS = 200

Subject = Annotated[
    str | None,
    QueryParameter(
        name="subject",
        pattern=WORD,
        max_length=_MAX_WORD_CHARS,
        description="Of what: `tenant:<id>`, `key:<id>` or `job:<name>`; `admin`: a login with a key nobody has.",
    ),
]
Action = Annotated[
    str | None,
    QueryParameter(
        name="action",
        pattern=WORD,
        max_length=_MAX_WORD_CHARS,
        description="What was done, such as `key.revoke` or `admin.login_failed`.",
    ),
]
ActorName = Annotated[
    str | None,
    QueryParameter(
        name="actor",
        pattern=WORD,
        max_length=_MAX_WORD_CHARS,
        description="Who did it: an admin key's prefix, or `cli:` and a user's name.",
    ),
]
Since = Annotated[
    datetime | None,
    QueryParameter(name="since", description="Nothing older than this, such as 2027-01-01T00:00:00Z."),
]
Until = Annotated[datetime | None, QueryParameter(name="until", description="Only what is older than this.")]


class AuditEvent(Answered):
    """One change, or one login to the dashboard or failure to log in."""

    id: Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
    at: Moment
    actor: Annotated[
        str, Meta(description="Who: an admin key's prefix, `cli:` and a user's name, or `unknown`.")
    ]
    action: Annotated[str, Meta(examples=["key.revoke"])]
    subject: Annotated[str, Meta(description="What: `tenant:<id>`, `key:<id>`, `job:<name>`, or `admin`.")]
    before: Annotated[
        dict[str, Any] | None, Meta(description="What it was like; null where it was not there.")
    ]
    after: Annotated[dict[str, Any] | None, Meta(description="What it is like since; null where it is gone.")]
    request_id: Annotated[
        str | None, Meta(description="The X-Request-ID of the request.", extra_json_schema={"format": "uuid"})
    ]
    address: Annotated[str | None, Meta(description="Where the request came from.")]


class AuditPage(Answered):
    """Events, newest first."""

    items: tuple[AuditEvent, ...]
    next_cursor: paging.NextCursor


class AuditController(Controller):
    """The audit log."""

    path = "/audit"
    tags = ("audit",)

    @get(
        operation_id="listAuditEvents",
        summary="List what was changed and who logged in or failed to, newest first",
    )
    async def list_events(
        self,
        *,
        admin: Admin,
        subject: Subject = None,
        action: Action = None,
        actor: ActorName = None,
        since: Since = None,
        until: Until = None,
        limit: paging.Limit = paging.DEFAULT_ENTRIES,
        cursor: paging.Cursor = None,
    ) -> AuditPage:
        """Answer a page; the cursor holds the last event of the page before."""
        wanted = AuditFilter(
            subject,
            action,
            actor,
            None if since is None else utc(since, parameter="since"),
            None if until is None else utc(until, parameter="until"),
        )
        before = paging.place_of(cursor, tuple[datetime, UUID])
        found = await admin.audit.newest(wanted, before=before, limit=limit + 1)
        last = found[limit - 1] if len(found) > limit else None
        return AuditPage(
            items=tuple(_event(each) for each in found[:limit]),
            next_cursor=cursor_at((last.at, last.id)) if last else None,
        )


def _event(event: domain.AuditEvent) -> AuditEvent:
    return AuditEvent(
        id=str(event.id),
        at=event.at,
        actor=event.actor,
        action=event.action,
        subject=event.subject,
        before=event.before,
        after=event.after,
        request_id=None if event.request_id is None else str(event.request_id),
        address=event.address,
    )
