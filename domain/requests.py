"""One inference request: what the gateway must know of it, and the body that a backend gets instead of it.

Never the client's own top level: it is written anew from known fields. Values the gateway does not police
travel as the client's exact bytes.
"""

from collections.abc import Mapping

import msgspec

from domain.errors import BadRequest
from domain.keep_alive import keep_alive_ns
from domain.routes import (
    FORWARDED_OPTIONS,
    OPTION_FIELDS,
    POLICED_OPTIONS,
    STREAM_OPTION_FIELDS,
    RouteKind,
    RouteSpec,
)
from domain.strict_json import StrictObject, go_fold, parse_object, split_raw
from domain.values import ApiFamily

_LABELS = frozenset({"role", "type"})
"""Keys of a message whose text is wire format, not prompt."""

_SCHEMA_FIELDS = ("format", "response_format")

_INCLUDE_USAGE = msgspec.Raw(b'{"include_usage":true}')

_ABSENT_IF_EMPTY = frozenset({"system", "template", "context", "raw", "reasoning", "reasoning_effort"})
"""Policed fields that say nothing when they are empty or false; client libraries send them so all the time."""


class Prompt(msgspec.Struct, frozen=True):
    """How much a request asks a model to read.

    `chars` and `images` are what its texts (tools as JSON included) and images make up. `text_bytes` is never
    below the tokens of all text that could reach the model, whatever it is: texts and JSON schemas in UTF-8, a
    byte for each of the `context_tokens` a `context` holds. `messages` are the pieces a template wraps, `texts`
    what the model reads one by one, each within its own context: a batch of embeddings has many. `is_empty`
    means there is nothing to answer: natively that loads the model.
    """

    chars: int
    images: int
    is_empty: bool
    text_bytes: int
    messages: int = 1
    texts: int = 1
    context_tokens: int = 0


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
    even where the route streams. `dropped` counts unknown top-level fields and options.
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


def parse_request(spec: RouteSpec, body: bytes) -> ParsedRequest:
    """Read and check the body of a request to one route.

    Raises
    ------
    BadRequest
        The body cannot be understood in one way only (see `domain.strict_json`), or a field the gateway
        decides on has a type that Ollama refuses too.
    """
    strict = parse_object(body, spec.known)
    values = strict.values
    model = values.get("model")
    if not isinstance(model, str):
        raise BadRequest("the field 'model' is required and must be a string")
    prompt = _measure(spec, strict)
    stream = _flag(values, "stream", default=spec.streams_by_default) if spec.can_stream else False
    native = spec.family is ApiFamily.NATIVE
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
        wants_usage=_wants_usage(values) and stream if spec.can_stream and not native else False,
        output_cap=_output_cap(spec, values),
        prompt=prompt,
        is_load_only=is_load_only,
        is_unload=_keep_alive_is_zero(values) and is_load_only and spec.can_stream if native else False,
        dropped=strict.unknown + unknown_options,
        fields=fields,
        options=options,
        asked=asked,
    )


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
        if parsed.stream:
            fields["stream_options"] = _INCLUDE_USAGE
    return msgspec.json.encode(fields)


def _flag(values: Mapping[str, object], name: str, *, default: bool) -> bool:
    value = values.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"'{name}' must be true or false")
    return value


def _text(values: Mapping[str, object], name: str) -> str:
    value = values.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"'{name}' must be a string")
    return value


def _whole_number(values: Mapping[str, object], name: str) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
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
        limits = _whole_number(values, spec.output_cap_field), _whole_number(values, "max_completion_tokens")
        cap = next((limit for limit in limits if limit is not None), 0)
    return cap if cap > 0 else None


class _Extent:
    """Sums of what was measured so far."""

    __slots__ = ("chars", "images", "text_bytes")

    def __init__(self) -> None:
        self.chars = self.images = self.text_bytes = 0

    def add_text(self, text: str) -> None:
        length = len(text)
        self.chars += length
        self.text_bytes += length if text.isascii() else len(text.encode())

    def add_label(self, text: str) -> None:
        """Count a text that is wire format: no prompt, though a template may show it to the model."""
        self.text_bytes += len(text) if text.isascii() else len(text.encode())


def _measure(spec: RouteSpec, strict: StrictObject) -> Prompt:
    values = strict.values
    if spec.kind is RouteKind.CHAT:
        return _measure_chat(spec, strict)
    if spec.kind is RouteKind.EMBED and "prompt" not in spec.prompt_fields:
        return _measure_inputs(values.get("input"))
    extent = _Extent()
    for name in spec.prompt_fields:
        extent.add_text(_text(values, name))
    context = values.get("context") if "context" in spec.policed else None
    context_tokens = len(context) if isinstance(context, list) else 0
    images = values.get("images") if "images" in spec.forwarded else None
    return Prompt(
        extent.chars,
        len(images) if isinstance(images, list) else 0,
        is_empty=not values.get("prompt"),
        text_bytes=extent.text_bytes + _schema_bytes(strict) + context_tokens,
        context_tokens=context_tokens,
    )


def _measure_inputs(inputs: object) -> Prompt:
    texts = inputs if isinstance(inputs, list) else [inputs] if inputs is not None else []
    extent = _Extent()
    for text in texts:
        if not isinstance(text, str):
            raise BadRequest("'input' must be a string or a list of strings")
        extent.add_text(text)
    return Prompt(
        extent.chars,
        0,
        is_empty=not inputs,
        text_bytes=extent.text_bytes,
        messages=len(texts),
        texts=len(texts),
    )


def _measure_chat(spec: RouteSpec, strict: StrictObject) -> Prompt:
    messages = strict.values.get("messages")
    if messages is None:
        messages = []
    if not isinstance(messages, list):
        raise BadRequest("'messages' must be a list")
    if not messages and spec.family is ApiFamily.OPENAI:
        raise BadRequest("'messages' must hold at least one message")
    extent = _Extent()
    chars = text_bytes = 0  # plain texts are counted here and not by the extent: this loop is hot
    for message in messages:
        if not isinstance(message, dict):
            raise BadRequest("each of 'messages' must be an object")
        for key, value in message.items():
            if value.__class__ is str:
                length = len(value)
                text_bytes += length if value.isascii() else len(value.encode())
                if key not in _LABELS:
                    chars += length
            elif value:
                _measure_nested(key, value, extent)
                if go_fold(key) == "tool_calls":
                    # Templates write calls as JSON: names and numbers are text as well.
                    text_bytes += _json_bytes(msgspec.json.encode(value))
    if "tools" in strict.raw:
        tools = bytes(strict.raw["tools"])
        chars += len(tools)
        text_bytes += _json_bytes(tools)
    return Prompt(
        chars + extent.chars,
        extent.images,
        is_empty=not messages,
        text_bytes=text_bytes + extent.text_bytes + _schema_bytes(strict),
        messages=len(messages),
    )


def _schema_bytes(strict: StrictObject) -> int:
    """Return the size of the schema an answer is to follow: some templates put it into the prompt."""
    return sum(_json_bytes(bytes(strict.raw[name])) for name in _SCHEMA_FIELDS if name in strict.raw)


def _json_bytes(text: bytes) -> int:
    """Return how long JSON is in a prompt, where Go has written it: `<`, `>` and `&` as six bytes each."""
    return len(text) + 5 * (text.count(b"<") + text.count(b">") + text.count(b"&"))


def _measure_nested(key: str, value: object, extent: _Extent) -> None:
    """Count the texts and images below one key of a message, in whatever case the key is written."""
    fold = go_fold(key)
    if fold == "images" and isinstance(value, list):
        extent.images += len(value)
    elif fold == "image_url":
        extent.images += 1
    elif isinstance(value, str):
        if key in _LABELS:
            extent.add_label(value)
        else:
            extent.add_text(value)
    elif isinstance(value, dict):
        for child_key, child in value.items():
            _measure_nested(child_key, child, extent)
    elif isinstance(value, list):
        for child in value:
            _measure_nested("", child, extent)
