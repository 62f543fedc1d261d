"""How much a request asks a model to read, measured before any model has seen it."""

from collections.abc import Mapping

import msgspec

from domain.errors import BadRequest
from domain.images import Picture, sniff, sniff_url
from domain.routes import RouteKind, RouteSpec
from domain.strict_json import StrictObject, go_fold
from domain.values import ApiFamily

_LABELS = frozenset({"role", "type"})
"""Keys of a message whose text is wire format, not prompt."""

_BLOCK_LABELS = _LABELS | {"id", "call_id", "tool_use_id", "signature", "status", "media_type", "detail"}
"""The same for the items of a Responses request and the blocks of an Anthropic message."""

_IMAGE_SOURCES = ("base64", "url", "file")

_SCHEMA_FIELDS = ("format", "response_format")


class Prompt(msgspec.Struct, frozen=True):
    """How much a request asks a model to read.

    `prompt_bytes` (UTF-8) and `images` are what its texts (tools as JSON included) and images make up. `text_bytes` is
    never below the tokens of all text that could reach the model, whatever it is: texts and JSON schemas in UTF-8, a
    byte for each of the `context_tokens` a `context` holds. `messages` are the pieces a template wraps, `texts`
    what the model reads one by one, each within its own context: a batch of embeddings has many. `is_empty`
    means there is nothing to answer: natively that loads the model. `pictures` are the kinds of its images.
    """

    prompt_bytes: int
    images: int
    is_empty: bool
    text_bytes: int
    messages: int = 1
    texts: int = 1
    context_tokens: int = 0
    pictures: frozenset[Picture] = frozenset()


class _Extent:
    """Sums of what was measured so far."""

    __slots__ = ("images", "parts", "pictures", "prompt_bytes", "text_bytes")

    def __init__(self) -> None:
        self.prompt_bytes = self.images = self.parts = self.text_bytes = 0
        self.pictures: frozenset[Picture] = frozenset()

    def add_text(self, text: str) -> None:
        length = len(text) if text.isascii() else len(text.encode())
        self.prompt_bytes += length
        self.text_bytes += length

    def add_label(self, text: str) -> None:
        """Count a text that is wire format: no prompt, though a template may show it to the model."""
        self.text_bytes += len(text) if text.isascii() else len(text.encode())

    def add_images(self, *pictures: Picture) -> None:
        """Count images of these kinds."""
        self.images += len(pictures)
        self.pictures |= frozenset(pictures)

    def add_json(self, value: object) -> None:
        """Count a value that reaches the model as JSON."""
        text = msgspec.json.encode(value)
        self.prompt_bytes += len(text)
        self.text_bytes += _json_bytes(text)


def measure(spec: RouteSpec, strict: StrictObject) -> Prompt:
    """Measure the prompt of a request to one route.

    Raises
    ------
    BadRequest
        A text, or the list that holds the prompt, has a type that Ollama refuses too.
    """
    values = strict.values
    if spec.kind is RouteKind.CHAT:
        if spec.family is ApiFamily.RESPONSES:
            return _measure_responses(strict)
        if spec.family is ApiFamily.ANTHROPIC:
            return _measure_anthropic(strict)
        return _measure_chat(spec, strict)
    if spec.kind is RouteKind.EMBED and "prompt" not in spec.prompt_fields:
        return _measure_inputs(values.get("input"))
    extent = _Extent()
    for name in spec.prompt_fields:
        extent.add_text(_text(values, name))
    context = values.get("context") if "context" in spec.policed else None
    context_tokens = len(context) if isinstance(context, list) else 0
    images = values.get("images") if "images" in spec.forwarded else None
    if isinstance(images, list):
        extent.add_images(*map(sniff, images))
    return Prompt(
        extent.prompt_bytes,
        extent.images,
        is_empty=not values.get("prompt"),
        text_bytes=extent.text_bytes + _schema_bytes(strict) + context_tokens,
        context_tokens=context_tokens,
        pictures=extent.pictures,
    )


def _measure_inputs(inputs: object) -> Prompt:
    texts = inputs if isinstance(inputs, list) else [inputs] if inputs is not None else []
    extent = _Extent()
    for text in texts:
        if not isinstance(text, str):
            raise BadRequest("'input' must be a string or a list of strings")
        extent.add_text(text)
    return Prompt(
        extent.prompt_bytes,
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
    prompt_bytes = text_bytes = 0  # plain texts are counted here and not by the extent: this loop is hot
    for message in messages:
        if not isinstance(message, dict):
            raise BadRequest("each of 'messages' must be an object")
        for key, value in message.items():
            if value.__class__ is str:
                length = len(value) if value.isascii() else len(value.encode())
                text_bytes += length
                if key not in _LABELS:
                    prompt_bytes += length
            elif value:
                pictures = extent.pictures
                _measure_nested(key, value, extent)
                if go_fold(key) == "tool_calls":
                    extent.pictures = pictures  # an argument of a call may be named like an image and is none
                    # Templates write calls as JSON: names and numbers are text as well.
                    text_bytes += _json_bytes(msgspec.json.encode(value))
    if "tools" in strict.raw:
        tools = bytes(strict.raw["tools"])
        prompt_bytes += len(tools)
        text_bytes += _json_bytes(tools)
    return Prompt(
        prompt_bytes + extent.prompt_bytes,
        extent.images,
        is_empty=not messages,
        text_bytes=text_bytes + extent.text_bytes + _schema_bytes(strict),
        messages=len(messages),
        pictures=extent.pictures,
    )


def _text(values: Mapping[str, object], name: str) -> str:
    value = values.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"'{name}' must be a string")
    return value


def _schema_bytes(strict: StrictObject) -> int:
    """Return the size of the schema an answer is to follow: some templates put it into the prompt."""
    return sum(_json_bytes(bytes(strict.raw[name])) for name in _SCHEMA_FIELDS if name in strict.raw)


def _json_bytes(text: bytes) -> int:
    """Return how long JSON is in a prompt, where Go has written it: `<`, `>` and `&` as six bytes each."""
    return len(text) + 5 * (text.count(b"<") + text.count(b">") + text.count(b"&"))


def _measure_nested(key: str, value: object, extent: _Extent, *, labels: frozenset[str] = _LABELS) -> None:
    """Count the texts and images below one key of a message, in whatever case the key is written."""
    fold = go_fold(key)
    if fold == "images" and isinstance(value, list):
        extent.add_images(*map(sniff, value))
    elif fold == "image_url":
        extent.add_images(sniff_url(value))
    elif isinstance(value, str):
        if key in labels:
            extent.add_label(value)
        else:
            extent.add_text(value)
    elif isinstance(value, dict):
        for child_key, child in value.items():
            _measure_nested(child_key, child, extent, labels=labels)
    elif isinstance(value, list):
        for child in value:
            _measure_nested("", child, extent, labels=labels)


def _measure_responses(strict: StrictObject) -> Prompt:
    values, extent = strict.values, _Extent()
    extent.add_text(_text(values, "instructions"))
    given = values.get("input")
    if not isinstance(given, str | list):
        raise BadRequest("'input' is required and must be a text or a list of items")
    if not given and not extent.text_bytes:
        raise BadRequest("'input' must not be empty")
    items: list[object] = [given] if isinstance(given, str) else given
    for item in items:
        _measure_nested("", item, extent, labels=_BLOCK_LABELS)
    _add_raw(strict, "tools", extent, is_prompt=True)
    _add_raw(strict, "text", extent, is_prompt=False)
    return Prompt(
        extent.prompt_bytes,
        extent.images,
        is_empty=False,
        text_bytes=extent.text_bytes,
        messages=len(items) + bool(values.get("instructions")),
        pictures=extent.pictures,
    )


def _measure_anthropic(strict: StrictObject) -> Prompt:
    values, extent = strict.values, _Extent()
    messages = values.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' is required and must hold at least one message")
    _measure_content(values.get("system"), extent)
    for message in messages:
        if not isinstance(message, dict):
            raise BadRequest("each of 'messages' must be an object")
        _measure_block(message, extent)
    _add_raw(strict, "tools", extent, is_prompt=True)
    _add_raw(strict, "output_config", extent, is_prompt=False)
    return Prompt(
        extent.prompt_bytes,
        extent.images,
        is_empty=False,
        text_bytes=extent.text_bytes,
        messages=len(messages) + extent.parts + bool(values.get("system")),
        pictures=extent.pictures,
    )


def _measure_content(content: object, extent: _Extent) -> None:
    """Count what stands where Anthropic takes a text or a list of blocks."""
    if isinstance(content, str):
        extent.add_text(content)
    elif isinstance(content, list):
        for block in content:
            if isinstance(block, dict):
                _measure_block(block, extent)
            else:
                _measure_content(block, extent)
    elif content:
        extent.add_json(content)  # a search result as an object becomes JSON in the prompt


def _measure_block(block: Mapping[str, object], extent: _Extent) -> None:
    """Count one message or block, in whatever case its keys are written."""
    for key, value in block.items():
        fold = go_fold(key)
        if fold == "source" and isinstance(value, dict) and _is_any(value, _IMAGE_SOURCES):
            extent.images += 1
            if _is_any(block, ("image",)):
                extent.pictures |= {_sniff_source(value)}
        elif fold in _BLOCK_LABELS and isinstance(value, str):
            extent.add_label(value)
            extent.parts += fold == "tool_use_id"  # a tool's result becomes a message of its own
        elif fold == "input" and value:
            extent.add_json(value)  # templates write calls as JSON
        else:
            _measure_content(value, extent)


def _is_any(value: Mapping[str, object], types: tuple[str, ...]) -> bool:
    """Tell whether one of the types is that of an object, in whatever case its key is written."""
    return any(kind in types for name, kind in value.items() if go_fold(name) == "type")


def _sniff_source(source: Mapping[str, object]) -> Picture:
    """Tell what the source of an Anthropic image is, in whatever case its keys are written."""
    if _is_any(source, ("url",)):
        return Picture.REMOTE
    found = {sniff(value) for key, value in source.items() if go_fold(key) == "data"}
    return found.pop() if len(found) == 1 else Picture.UNKNOWN


def _add_raw(strict: StrictObject, name: str, extent: _Extent, *, is_prompt: bool) -> None:
    """Count a field by its JSON; a schema that an answer is to follow stands in some prompts only."""
    if name in strict.raw:
        text = bytes(strict.raw[name])
        extent.text_bytes += _json_bytes(text)
        extent.prompt_bytes += len(text) if is_prompt else 0
