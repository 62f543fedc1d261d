"""Schemas of structs for the document, and what msgspec leaves out of them."""

import inspect
from collections.abc import Iterable
from typing import Any, Final

import msgspec

_SCHEMAS: Final = "#/components/schemas/{name}"
_TYPES: Final = {str: "string", bool: "boolean"}
_REFERRED: Final = "object"
"""What has a schema of its own is a struct."""
_NULL: Final = "null"


def schemas_of(kinds: Iterable[type[msgspec.Struct]]) -> dict[str, Any]:
    """Return the schemas of structs, and of all that they are made of, by name in order."""
    _, components = msgspec.json.schema_components(dict.fromkeys(kinds), ref_template=_SCHEMAS)
    for schema in components.values():
        schema["description"] = inspect.cleandoc(schema["description"])
    return {name: _with_types(components[name]) for name in sorted(components)}


def reference(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Return the reference to a struct's schema."""
    return {"$ref": _SCHEMAS.format(name=kind.__name__)}


def _with_types(schema: Any) -> Any:
    """Return a schema in which everything says of which type it is.

    JSON Schema does not ask for it where values or alternatives tell, but readers of documents do: Scalar calls a
    document without it invalid.
    """
    if isinstance(schema, list):
        return [_with_types(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    typed = {name: _with_types(each) for name, each in schema.items()}
    if "type" in typed:
        return typed
    if isinstance(typed.get("enum"), list):
        (typed["type"],) = {_TYPES[type(value)] for value in typed["enum"]}
    elif isinstance(typed.get("anyOf"), list):
        return _of_several_types(typed)
    return typed


def _of_several_types(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of alternatives with their types; one value or null needs no alternatives to say so."""
    alternatives: list[dict[str, Any]] = schema["anyOf"]
    first, *rest = alternatives
    kinds = list(dict.fromkeys(_REFERRED if "$ref" in each else each["type"] for each in (first, *rest)))
    if "$ref" in first or rest != [{"type": _NULL}]:
        return schema | {"type": kinds}
    values = {"enum": [*first["enum"], None]} if "enum" in first else {}
    return first | {name: each for name, each in schema.items() if name != "anyOf"} | values | {"type": kinds}
