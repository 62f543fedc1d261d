"""The OpenAPI document as schemathesis reads it."""

from copy import deepcopy
from typing import Any, Final

import msgspec
import schemathesis

LINES: Final = "application/x-ndjson"
EVENTS: Final = "text/event-stream"


def readable(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with what streams consist of put in schemathesis's way: lists of records, data of events.

    It is a copy: schemathesis sends the examples themselves, and who changes what is sent would change them.
    """
    document = deepcopy(document)
    for operations in document["paths"].values():
        for operation in operations.values():
            content: dict[str, Any] = operation["responses"].get("200", {}).get("content", {})
            if LINES in content:
                content[LINES] = {"schema": {"type": "array", "items": content[LINES]["schema"]}}
            if EVENTS in content:
                data = {"contentMediaType": "application/json", "contentSchema": content[EVENTS]["schema"]}
                event = {"properties": {"data": {"if": {"const": "[DONE]"}, "else": data}}}
                content[EVENTS] = {"schema": event}
    return document


@schemathesis.deserializer(LINES)
def _records_of(_: object, response: schemathesis.Response) -> list[Any]:
    return [msgspec.json.decode(line) for line in response.content.splitlines()]
