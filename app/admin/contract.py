"""What requests and answers of the admin surface are made of, and how a body becomes one of them.

Contracts are plain structs with camel-case names: a value of `domain` never meets the wire, so either may change
without the other. Litestar's own DTO for structs is not used: it writes one component per handler into the document,
drops the constraints of fields that may be left out, and stops at the first mistake.
"""

import re
from collections.abc import Generator
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

import msgspec
from litestar.dto import AbstractDTO
from litestar.dto.data_structures import DTOFieldDefinition
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition
from msgspec import Meta

from app.admin.errors import FieldError, InvalidFields
from app.admin.wording import explained
from domain.one_line import PRINTABLE
from domain.strict_json import KnownFields, parse_object
from domain.tenants import MAX_NAME_CHARS

T = TypeVar("T", bound=msgspec.Struct)

Name = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_NAME_CHARS, pattern=PRINTABLE, description="A name for people."),
]

Moment = Annotated[datetime, Meta(tz=True)]

_NO_FIELDS: Final = KnownFields(frozenset())
"""Which fields there are is told here, one by one; the strict reader refuses what two readers would read apart."""
_PLACE: Final = re.compile(r" - at `\$(.*)`$")
_STEP: Final = re.compile(r"\.([A-Za-z0-9_]+)|\[(\d+|\.\.\.)\]")


class Answered(msgspec.Struct, rename="camel"):
    """Base of what is answered."""


class Asked(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Base of what may be asked for. A field nobody knows is a mistake, and told as one."""


class Nothing(Asked):
    """What may be asked for where the path says it all: an empty object, or no body."""


class JsonBody(AbstractDTO[T]):
    """Litestar's seam for bodies, with our own reader behind it and the struct itself in the document."""

    def decode_bytes(self, value: bytes) -> T:
        """Return the body.

        Raises
        ------
        BadRequest
            It is no JSON object that every reader would understand in the same way.
        InvalidFields
            It is, and these fields cannot be.
        """
        return decoded(value, self.model_type)

    @classmethod
    def create_for_field_definition(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,
        backend_cls: Any = None,
    ) -> None:
        """Prepare nothing: there is no second model behind the struct."""

    @classmethod
    def create_openapi_schema(
        cls,
        field_definition: FieldDefinition,
        handler_id: str,  # noqa: ARG003
        schema_creator: Any,  # the library keeps its type to itself
    ) -> Reference | Schema:
        """Return the struct's own schema."""
        schema: Reference | Schema = schema_creator.for_field_definition(
            FieldDefinition.from_annotation(
                cls.model_type, kwarg_definition=field_definition.kwarg_definition
            )
        )
        return schema

    @classmethod
    def generate_field_definitions(
        cls,
        model_type: type[Any],  # noqa: ARG003
    ) -> Generator[DTOFieldDefinition, None, None]:
        """Yield nothing: nobody takes the struct apart."""
        yield from ()

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:  # noqa: ARG003
        """Return False: nobody takes the struct apart."""
        return False


def decoded(body: bytes, kind: type[T]) -> T:
    """Return a body as a struct; every field at fault is told, not the first alone.

    Raises
    ------
    BadRequest
        It is no JSON object, or one that two readers could understand differently.
    InvalidFields
        Fields are missing, unknown or have values that cannot be.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    there = ", ".join(sorted(fields)) or "none at all"
    values = parse_object(body, _NO_FIELDS).values
    errors = [
        FieldError(f"There is no such field here; there are {there}.", pointer=pointer(name))
        for name in values
        if name not in fields
    ]
    found: dict[str, Any] = {}
    for name, field in fields.items():
        if name in values:
            try:
                found[field.name] = msgspec.convert(values[name], field.type)
            except msgspec.ValidationError as wrong:
                errors.append(_field_error(name, str(wrong), field.type))
        elif field.required:
            errors.append(FieldError("This field is required.", pointer=pointer(name)))
    if errors:
        raise InvalidFields(errors)
    return kind(**found)


def pointer(*steps: str | int) -> str:
    """Return the JSON pointer (RFC 6901) of a place in the body, as a URI fragment."""
    escaped = (str(step)[:100].replace("~", "~0").replace("/", "~1") for step in steps)
    return "".join(["#", *(f"/{step}" for step in escaped)])


def utc(moment: datetime, *, pointer: str | None = None, parameter: str | None = None) -> datetime:
    """Return an instant in UTC.

    Raises
    ------
    InvalidFields
        It names no time zone, or no calendar has it in UTC.
    """
    try:
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
        wrong = "A time needs its zone, such as 2027-06-30T12:00:00Z."
    except OverflowError:
        wrong = "This time is beyond the calendar."
    if parameter is not None:
        raise InvalidFields.parameter(parameter, wrong)
    raise InvalidFields.field(pointer or "#", wrong)


def _field_error(name: str, wrong: str, kind: Any) -> FieldError:
    """Split the decoder's complaint into what and where."""
    place = _PLACE.search(wrong)
    steps: list[str | int] = [name]
    if place is not None:
        wrong = wrong[: place.start()]
        steps += [inner or outer for inner, outer in _STEP.findall(place[1])]
    return FieldError(explained(wrong, kind), pointer=pointer(*steps))
