"""`/admin/v1/usage`: the ledger as rows, as sums, and as a file."""

from collections.abc import AsyncIterator
from typing import Annotated, Final, Literal

from litestar import Controller, get
from litestar.params import QueryParameter
from litestar.response import Stream
from msgspec import Meta

from app.admin import paging
from app.admin.contract import Answered, Moment
from app.admin.errors import InvalidFields
from app.admin.handed import Admin
from app.admin.usage_contract import Count, Outcome, UsageRow, UsageRowPage, fields_of
from app.admin.usage_filter import EVER, LATELY, Wanted
from app.cursors import cursor_at
from app.usage_export import ExportedUsageRow, ExportFormat, export
from domain.tenants import TimeZoneUnknown, checked_time_zone
from domain.usage_report import TIME_UNITS, GroupedSum, TooManySums, UsageCounts, UsageGroup
from domain.usage_rows import RowPlace

MAX_SUMS: Final = 10_000
_GROUP: Final = f"(?:{'|'.join(UsageGroup)})"

GroupBy = Annotated[
    str,
    QueryParameter(
        name="by",
        pattern=rf"^(?:{_GROUP}(?:,{_GROUP})*)?$(?!\n)",
        max_length=100,
        description="What one line stands for: any of tenant, key, model, backend and outcome, and one of hour, day and"
        " month, separated by commas. Empty: the total alone.",
    ),
]
ZoneName = Annotated[
    str,
    QueryParameter(
        name="timeZone",
        max_length=64,
        description="IANA time zone of days and months, such as Europe/Berlin. Hours are in UTC.",
    ),
]
Format = Annotated[
    Literal["ndjson", "csv"], QueryParameter(name="format", description="What the lines look like.")
]
_MEDIA_TYPES: Final = {
    ExportFormat.NDJSON: "application/x-ndjson",
    ExportFormat.CSV: "text/csv",
}


class UsageTotal(Answered):
    """What was used."""

    requests: Count
    tokens_in: Count
    tokens_out: Count
    tokens_cached: Annotated[int, Meta(ge=0, description="Of those in.")]
    estimated_requests: Annotated[int, Meta(ge=0, description="Requests whose tokens no backend reported.")]
    busy_us: Annotated[
        int, Meta(ge=0, description="Backend time in microseconds: loading, prompts, generating.")
    ]


class UsageSum(UsageTotal, kw_only=True):
    """What was used by whatever the line stands for; what is not grouped by is null."""

    tenant: Annotated[str | None, Meta(description="A slug; the id if the tenant is gone.")] = None
    key: Annotated[str | None, Meta(description="A prefix; the id if the key is gone.")] = None
    model: str | None = None
    backend: Annotated[str | None, Meta(description="Empty: none was tried.")] = None
    outcome: Outcome | None = None
    hour: Annotated[str | None, Meta(examples=["2026-11-25T16:00:00Z"])] = None
    day: Annotated[str | None, Meta(examples=["2026-11-25"])] = None
    month: Annotated[str | None, Meta(examples=["2026-11"])] = None


class UsageSums(Answered):
    """Sums over the requests admitted from `since` up to, not including, `until`."""

    since: Moment
    until: Moment
    time_zone: Annotated[str, Meta(description="Whose days and months.")]
    by: Annotated[tuple[str, ...], Meta(description="What one line stands for.")]
    lines: Annotated[tuple[UsageSum, ...], Meta(description="In the order of what they stand for.")]
    total: UsageTotal


class UsageController(Controller):
    """The ledger."""

    path = "/usage"
    tags = ("usage",)
    dependencies = LATELY

    @get("/rows", operation_id="listUsageRows", summary="List requests, newest first")
    async def list_rows(
        self,
        *,
        admin: Admin,
        wanted: Wanted,
        limit: paging.Limit = paging.DEFAULT_ENTRIES,
        cursor: paging.Cursor = None,
    ) -> UsageRowPage:
        """Answer a page; the cursor holds where its last row stands."""
        before = paging.place_of(cursor, RowPlace)
        found = await admin.ledger.page(wanted, after=before, limit=limit + 1, newest_first=True)
        return UsageRowPage(
            items=tuple(UsageRow(**fields_of(row)) for row in found[:limit]),
            next_cursor=cursor_at(found[limit - 1].place) if len(found) > limit else None,
        )

    @get("/sums", operation_id="getUsageSums", summary="Sum up requests and tokens")
    async def get_sums(
        self,
        *,
        admin: Admin,
        wanted: Wanted,
        by: GroupBy = "tenant",
        time_zone: ZoneName = "UTC",
    ) -> UsageSums:
        """Answer at most `MAX_SUMS` lines, exact to the moment the question was asked."""
        groups = _groups(by)
        try:
            zone = checked_time_zone(time_zone)
        except TimeZoneUnknown as unknown:
            raise InvalidFields.parameter("timeZone", f"{unknown}.") from None
        try:
            found = await admin.usage.sums(groups, wanted, time_zone=zone, at_most=MAX_SUMS)
        except TooManySums:
            raise InvalidFields.parameter(
                "by",
                f"That would be more than {MAX_SUMS:,} lines; ask for less of it, or for a shorter time.",
            ) from None
        return UsageSums(
            since=wanted.since,
            until=wanted.until,
            time_zone=zone,
            by=tuple(group.value for group in groups),
            lines=tuple(_line(line, groups) for line in found.lines),
            total=UsageTotal(**_counts(found.total)),
        )

    @get(
        "/export",
        operation_id="exportUsage",
        summary="Export requests as lines, oldest first; it can be resumed",
        opt={"lines": {"application/x-ndjson": ExportedUsageRow, "text/csv": None}},
        dependencies=EVER,
    )
    async def export_usage(
        self,
        *,
        admin: Admin,
        wanted: Wanted,
        format: Format = "ndjson",  # noqa: A002 - its name in the URL
        cursor: paging.Cursor = None,
    ) -> Stream:
        """Stream the rows; an answer that breaks off is resumed with the cursor of its last whole line."""
        after = paging.place_of(cursor, RowPlace)
        form = ExportFormat(format)
        pieces = export(admin.ledger, wanted, form=form, after=after)
        # Asked for before the status leaves: what is wrong from the start is told as it should be.
        first = await anext(pieces, b"")
        return Stream(
            _joined(first, pieces),
            media_type=_MEDIA_TYPES[form],
            headers={"content-disposition": f'attachment; filename="usage.{form.value}"'},
        )


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in rest:
        yield piece


def _groups(by: str) -> tuple[UsageGroup, ...]:
    groups = tuple(UsageGroup(name) for name in by.split(",") if name)
    if len(set(groups)) < len(groups):
        raise InvalidFields.parameter("by", "It names something twice.")
    if sum(group in TIME_UNITS for group in groups) > 1:
        raise InvalidFields.parameter("by", "It takes one of hour, day and month; the finest says it all.")
    return groups


def _line(line: GroupedSum, groups: tuple[UsageGroup, ...]) -> UsageSum:
    labels = {group.value: label for group, label in zip(groups, line.labels, strict=True)}
    return UsageSum(**_counts(line), **labels)  # type: ignore[arg-type]  # labels are text, outcomes those of the enum


def _counts(counts: UsageCounts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in UsageCounts.__struct_fields__}
