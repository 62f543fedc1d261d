"""One inference request: what the gateway must know of it, and the body that a backend gets instead of it.

Never the client's own top level: it is written anew from known fields. Values the gateway does not police
travel as the client's exact bytes.
"""

from collections.abc import Mapping

import msgspec

from domain.errors import BadRequest
from domain.keep_alive import keep_alive_ns
from domain.lifting import Lifted, parse_lifted
from domain.prompts import Prompt, measure
from domain.routes import (
    FORWARDED_OPTIONS,
    OPTION_FIELDS,
    POLICED_OPTIONS,
    STREAM_OPTION_FIELDS,
    RouteSpec,
)
from domain.strict_json import StrictObject, go_fold, parse_object, split_raw
from domain.values import ApiFamily, Pieces

_WHOLE_NUMBERS = 2**63
"""Ollama refuses any that does not fit into 64 bits."""

_OWN_PIECE_BYTES = 64 * 1024

MODEL_REQUIRED = "the field 'model' is required and must be a string"
_INCLUDE_USAGE = msgspec.Raw(b'{"include_usage":true}')

_ABSENT_IF_EMPTY = frozenset(
    {
        *("system", "template", "context", "raw"),
        *("reasoning", "reasoning_effort", "thinking", "output_config"),
    }
)
"""Policed fields that say nothing when they are empty or false; client libraries send them so all the time."""


_WITH_WEB_TOOLS = frozenset({ApiFamily.RESPONSES, ApiFamily.ANTHROPIC})
"""Families in which a backend works some tools itself."""
_WEB_TOOLS = ("web_search", "web_fetch")


class Asked(msgspec.Struct, frozen=True):
    """A policed field as the client sent it: to look at, and to pass on."""

    value: object
    raw: msgspec.Raw

    def __repr__(self) -> str:
        """Leave the value out: it may be a prompt."""
        return "Asked(...)"


class ParsedRequest(msgspec.Struct, frozen=True):
    """One request, read and checked.

    `output_cap` is the positive limit of output tokens the client named, else None. `asked` are the policed
    fields and options it named. `is_load_only` (which `is_unload` implies) is answered with one JSON object
    even where the route streams. `dropped` counts unknown top-level fields and options. `is_large` says that its body
    is worth not being copied, `searches_web` that it offers a tool which the backend would work itself, by asking a
    service in the internet.
    """

    spec: RouteSpec
    model: str
    stream: bool
    wants_usage: bool
    output_cap: int | None
    prompt: Prompt
    is_load_only: bool
    is_unload: bool
    dropped: int
    fields: dict[str, msgspec.Raw]
    options: dict[str, msgspec.Raw] | None
    asked: dict[str, Asked]
    is_large: bool = False
    searches_web: bool = False

    def without_content(self) -> "ParsedRequest":
        """Return what is left to know once the body has been rebuilt: nothing that holds the client's bytes."""
        return msgspec.structs.replace(self, fields={}, options=None, asked={})

    def __repr__(self) -> str:
        """Leave everything out that could hold a prompt."""
        return f"ParsedRequest(path={self.spec.path!r}, stream={self.stream}, prompt={self.prompt})"


class Policed(msgspec.Struct, frozen=True):
    """What option policies made of a request.

    `output_cap` is the limit of output tokens a backend is told, None where nothing is generated. `fields` and
    `options` are the policed ones it gets; `stripped` counts those it does not.
    """

    output_cap: int | None
    fields: dict[str, object] | None = None
    options: dict[str, object] | None = None
    stripped: int = 0

    def __repr__(self) -> str:
        """Leave everything out that could hold a prompt."""
        return f"Policed(output_cap={self.output_cap}, stripped={self.stripped})"


def parse_request(spec: RouteSpec, body: bytes | Lifted) -> ParsedRequest:
    """Read and check the body of a request to one route, a large one after `domain.lifting.lift`.

    Raises
    ------
    BadRequest
        The body cannot be understood in one way only (see `domain.strict_json`), or a field the gateway
        decides on has a type that Ollama refuses too.
    """
    strict = _read(spec, body)
    values = strict.values
    model = _model(values)
    prompt = measure(spec, strict)
    _refuse_unsupported(spec, values)
    stream = _flag(values, "stream", default=spec.streams_by_default) if spec.can_stream else False
    native = spec.family is ApiFamily.NATIVE
    asks_for_usage = spec.family is ApiFamily.OPENAI and spec.can_stream and _wants_usage(values)
    asked = {
        name: Asked(value, strict.raw[name])
        for name in spec.policed
        if (value := values.get(name)) is not None and (value or name not in _ABSENT_IF_EMPTY)
    }
    options, unknown_options = _read_options(strict, asked) if native else (None, 0)
    is_load_only = native and prompt.is_empty
    fields = {name: raw for name, raw in strict.raw.items() if name in spec.forwarded}
    return ParsedRequest(
        spec=spec,
        model=model,
        stream=stream and not is_load_only,
        wants_usage=asks_for_usage and stream,
        output_cap=_output_cap(spec, values),
        prompt=prompt,
        is_load_only=is_load_only,
        is_unload=_keep_alive_is_zero(values) and is_load_only and spec.can_stream if native else False,
        dropped=strict.unknown + unknown_options,
        fields=fields,
        options=options,
        asked=asked,
        is_large=isinstance(body, Lifted),
        searches_web=spec.family in _WITH_WEB_TOOLS and _offers_web_tools(values),
    )


def parse_count(spec: RouteSpec, body: bytes | Lifted) -> tuple[str, Prompt]:
    """Read a request to count the tokens of what could be sent to the route: its model, and its prompt.

    Raises
    ------
    BadRequest
        As `parse_request` does, for the fields that are counted.
    """
    strict = _read(spec, body)
    return _model(strict.values), measure(spec, strict)


def rebuild(parsed: ParsedRequest, forwarded_model: str, policed: Policed) -> bytes:
    """Write the body a backend gets.

    Parameters
    ----------
    parsed
        The client's request.
    forwarded_model
        How the backend is to read the model name.
    policed
        What option policies made of it; its output cap may have been lowered since.
    """
    return msgspec.json.encode(_rebuilt(parsed, forwarded_model, policed))


def rebuild_in_pieces(parsed: ParsedRequest, forwarded_model: str, policed: Policed) -> Pieces:
    """Write the same bytes as `rebuild`, but what is long is a piece of its own: the client's bytes, not copied."""
    pieces, small = list[bytes | memoryview](), b""
    for name, value in _rebuilt(parsed, forwarded_model, policed).items():
        small += (b"," if small or pieces else b"{") + msgspec.json.encode(name) + b":"
        own = memoryview(value) if isinstance(value, msgspec.Raw) else b""
        if len(own) >= _OWN_PIECE_BYTES:
            pieces += (small, own)
            small = b""
        else:
            small += msgspec.json.encode(value)
    return (*pieces, small + b"}")


def _rebuilt(parsed: ParsedRequest, forwarded_model: str, policed: Policed) -> dict[str, object]:
    spec = parsed.spec
    fields: dict[str, object] = {**parsed.fields, "model": forwarded_model}
    if spec.can_stream:
        fields["stream"] = parsed.stream
    if policed.fields:
        fields.update(policed.fields)
    if spec.family is ApiFamily.NATIVE:
        options: dict[str, object] = {**(parsed.options or {}), **(policed.options or {})}
        if policed.output_cap is not None and spec.output_cap_field is not None:
            options[spec.output_cap_field] = policed.output_cap
        if options:
            fields["options"] = options
        else:
            fields.pop("options", None)
    elif spec.output_cap_field is not None:
        fields[spec.output_cap_field] = policed.output_cap
        if parsed.stream and spec.family is ApiFamily.OPENAI:
            fields["stream_options"] = _INCLUDE_USAGE
    return fields


def _read(spec: RouteSpec, body: bytes | Lifted) -> StrictObject:
    return parse_lifted(body, spec.known) if isinstance(body, Lifted) else parse_object(body, spec.known)


def _model(values: Mapping[str, object]) -> str:
    model = values.get("model")
    if not isinstance(model, str):
        raise BadRequest(MODEL_REQUIRED)
    return model


def _refuse_unsupported(spec: RouteSpec, values: Mapping[str, object]) -> None:
    """Refuse what no backend can do, where an answer without it would mislead the client.

    Raises
    ------
    BadRequest
        The request leans on something that is kept nowhere.
    """
    for name, sentence in spec.refused.items():
        if values.get(name):
            raise BadRequest(sentence)


def _offers_web_tools(values: Mapping[str, object]) -> bool:
    tools = values.get("tools")
    return any(
        go_fold(key) == "type" and isinstance(value, str) and value.startswith(_WEB_TOOLS)
        for tool in (tools if isinstance(tools, list) else ())
        for key, value in (tool.items() if isinstance(tool, dict) else ())
    )


def _flag(values: Mapping[str, object], name: str, *, default: bool) -> bool:
    value = values.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"'{name}' must be true or false")
    return value


def _whole_number(values: Mapping[str, object], name: str) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not -_WHOLE_NUMBERS <= value < _WHOLE_NUMBERS:
        raise BadRequest(f"'{name}' must be a whole number")
    return value


def _object(values: Mapping[str, object], name: str) -> dict[str, object] | None:
    value = values.get(name)
    if value is not None and not isinstance(value, dict):
        raise BadRequest(f"'{name}' must be an object")
    return value


def _read_options(strict: StrictObject, asked: dict[str, Asked]) -> tuple[dict[str, msgspec.Raw] | None, int]:
    """Return the options that travel, as the client's bytes, and how many mean nothing; add to `asked`."""
    options = _object(strict.values, "options")
    if options is None:
        return None, 0
    unknown = OPTION_FIELDS.count_unknown(options)
    kept = {}
    for name, raw in split_raw(strict.raw["options"]).items():
        if name in FORWARDED_OPTIONS:
            kept[name] = raw
        elif name in POLICED_OPTIONS and options[name] is not None:
            asked[name] = Asked(options[name], raw)
    return kept, unknown


def _wants_usage(values: Mapping[str, object]) -> bool:
    options = _object(values, "stream_options")
    if options is None:
        return False
    STREAM_OPTION_FIELDS.count_unknown(options)
    return _flag(options, "include_usage", default=False)


def _keep_alive_is_zero(values: Mapping[str, object]) -> bool:
    return keep_alive_ns(values.get("keep_alive")) == 0


def _output_cap(spec: RouteSpec, values: Mapping[str, object]) -> int | None:
    if spec.output_cap_field is None:
        return None
    if spec.family is ApiFamily.NATIVE:
        named = (_object(values, "options") or {}).get(spec.output_cap_field)
        if named is not None and (isinstance(named, bool) or not isinstance(named, int | float)):
            raise BadRequest(f"the option '{spec.output_cap_field}' must be a number")
        cap = int(named) if named is not None else 0
    else:
        limit = _whole_number(values, spec.output_cap_field)
        newer = _whole_number(values, "max_completion_tokens") if spec.family is ApiFamily.OPENAI else None
        cap = (newer or 0) if limit is None else limit
    if cap <= 0 and spec.family is ApiFamily.ANTHROPIC:
        raise BadRequest(f"'{spec.output_cap_field}' is required and must be above 0")
    return cap if cap > 0 else None
