"""Bodies become contracts or refusals of the caller's mistake, whatever they hold."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.admin.contract import decoded, pointer, utc
from app.admin.errors import InvalidFields
from app.admin.key_contract import KeyChange, KeyRotation, NewKey
from app.admin.paging import place_of
from app.admin.tenants import NewTenant, TenantChange
from app.cursors import cursor_at
from domain.errors import BadRequest

KINDS: list[type[msgspec.Struct]] = [NewTenant, TenantChange, NewKey, KeyChange, KeyRotation]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
    st.datetimes(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
NAMES = st.sampled_from(
    ["slug", "name", "timeZone", "allowAllModels", "status", "expiresAt", "allowedNetworks"]
)


def read(body: bytes, kind: type[msgspec.Struct]) -> msgspec.Struct | list[str]:
    """Return a body's contract, or where it is wrong; whatever is not the caller's mistake is raised."""
    try:
        return decoded(body, kind)
    except InvalidFields as refusal:
        return [str(error.pointer) for error in refusal.errors]
    except BadRequest:
        return ["#/"]


@pytest.mark.parametrize("kind", KINDS)
@given(body=st.binary(max_size=200))
def test_s1_no_bytes_are_a_fault_of_ours(kind: type[msgspec.Struct], body: bytes) -> None:
    found = read(body, kind)

    assert isinstance(found, kind) or (
        isinstance(found, list) and all(each.startswith("#/") for each in found)
    )


@pytest.mark.parametrize("kind", KINDS)
@given(fields=st.dictionaries(NAMES | st.text(max_size=5), VALUES, max_size=6))
def test_s1_no_object_is_a_fault_of_ours(kind: type[msgspec.Struct], fields: dict[str, Any]) -> None:
    found = read(msgspec.json.encode(fields), kind)

    if isinstance(found, kind):
        assert set(fields) <= {field.encode_name for field in msgspec.structs.fields(kind)}


@pytest.mark.parametrize(
    ("steps", "written"),
    [
        (("a",), "#/a"),
        (("a", 1), "#/a/1"),
        (("a/b~",), "#/a~1b~0"),
        ((), "#"),
        (("x" * 200,), "#/" + "x" * 100),
    ],
)
def test_places_in_a_body_are_json_pointers(steps: tuple[str | int, ...], written: str) -> None:
    assert pointer(*steps) == written


def test_a_long_name_takes_no_time_to_refuse() -> None:
    body = msgspec.json.encode({"slug": "x", "name": "a" * 200_000 + "\n"})

    assert read(body, NewTenant) == ["#/name"]


def test_times_are_told_in_utc() -> None:
    moment = datetime.fromisoformat("2027-06-30T12:00:00+02:00")

    assert utc(moment, parameter="since").isoformat() == "2027-06-30T10:00:00+00:00"


@pytest.mark.parametrize(
    "text", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "2027-01-01T00:00:00"]
)
def test_times_without_a_zone_or_beyond_the_calendar_are_refused(text: str) -> None:
    with pytest.raises(InvalidFields):
        utc(datetime.fromisoformat(text), parameter="since")


@given(place=st.tuples(st.datetimes(timezones=st.just(UTC)), st.uuids()))
def test_a_cursor_leads_back_to_its_place(place: tuple[datetime, UUID]) -> None:
    assert place_of(cursor_at(place), tuple[datetime, UUID]) == place


@given(cursor=st.text(max_size=300))
def test_s1_no_cursor_is_a_fault_of_ours(cursor: str) -> None:
    with suppress(InvalidFields):
        assert isinstance(place_of(cursor, str), str)
