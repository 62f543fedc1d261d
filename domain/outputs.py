"""How much of its own a model wrote into a record or a body: for answers whose counts never came.

One record is one token as a rule. But a tool call arrives whole, and so may text that a backend held back to look for
calls in it; whoever leaves before the counts must not get these for one token.
"""

from typing import Final, NamedTuple

import msgspec

from domain.usage import BYTES_PER_TOKEN

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding arbitrary bytes of a backend may raise."""

MAX_TOKEN_BYTES: Final = 128
"""Text up to this length may be a single token: the longest ones in use are runs of 128 blanks or dashes."""

_ABSENT = msgspec.Raw()


class Output(NamedTuple):
    """Bytes (UTF-8) of what a model wrote: its text with its thoughts, and the arguments of its tool calls."""

    text: int = 0
    arguments: int = 0

    @property
    def in_one_record(self) -> int:
        """Tokens, at least, of what stands in one record of a stream; 0 if that is nothing."""
        long = self.text > MAX_TOKEN_BYTES
        text = self.text // BYTES_PER_TOKEN if long else min(self.text, 1)
        return text + self.arguments // BYTES_PER_TOKEN

    @property
    def in_one_piece(self) -> int:
        """Tokens, roughly, of a whole answer; 0 if nothing stands in it."""
        written = self.text + self.arguments
        return max(written // BYTES_PER_TOKEN, min(written, 1))


class _Function(msgspec.Struct, gc=False):
    arguments: msgspec.Raw = _ABSENT


class _Call(msgspec.Struct, gc=False):
    function: _Function


class _Said(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct, gc=False):
    text: str | None = None
    delta: _Said | None = None
    message: _Said | None = None


class _ChatOutput(msgspec.Struct, gc=False):
    response: str | None = None
    thinking: str | None = None
    message: _Said | None = None
    choices: list[_Choice] | None = None


class _Delta(msgspec.Struct, gc=False):
    text: str = ""
    thinking: str = ""
    partial_json: str = ""


class _DeltaEvent(msgspec.Struct, gc=False):
    type: str = ""
    delta: str | _Delta = ""


class _Part(msgspec.Struct, gc=False):
    text: str = ""


class _Item(msgspec.Struct, gc=False):
    text: str = ""
    thinking: str = ""
    arguments: str = ""
    input: msgspec.Raw = _ABSENT
    content: list[_Part] | None = None
    summary: list[_Part] | None = None


class _ItemsOutput(msgspec.Struct, gc=False):
    output: list[_Item] | None = None
    content: list[_Item] | None = None


def chat_output(data: bytes) -> Output:
    """Return what stands in a record or a body of the native or the OpenAI family; nothing if it is neither."""
    try:
        record = _CHAT.decode(data)
        said = [record.message] if record.message is not None else []
        text = _size(record.response) + _size(record.thinking)
        for choice in record.choices or ():
            text += _size(choice.text)
            said += [each for each in (choice.delta, choice.message) if each is not None]
        text += sum(_size(each.content) + _size(each.thinking) + _size(each.reasoning) for each in said)
        calls = [call for each in said for call in each.tool_calls or ()]
        return Output(text, sum(_json_size(call.function.arguments) for call in calls))
    except UNREADABLE:
        return Output()


def delta_output(data: bytes) -> Output:
    """Return what stands in a delta of the Responses API or of Anthropic's; nothing if it is none."""
    try:
        event = _DELTA_EVENT.decode(data)
    except UNREADABLE:
        return Output()
    delta = event.delta
    if isinstance(delta, str):
        is_call = event.type == "response.function_call_arguments.delta"
        return Output(arguments=_size(delta)) if is_call else Output(_size(delta))
    return Output(_size(delta.text) + _size(delta.thinking), _size(delta.partial_json))


def items_output(body: bytes) -> Output:
    """Return what stands in a whole answer of the Responses API or of Anthropic's; nothing if it is none."""
    try:
        answer = _ITEMS.decode(body)
        items = [*(answer.output or ()), *(answer.content or ())]
        parts = [part for item in items for part in (*(item.content or ()), *(item.summary or ()))]
        text = sum(_size(item.text) + _size(item.thinking) for item in items)
        text += sum(_size(part.text) for part in parts)
        return Output(text, sum(_size(item.arguments) + _json_size(item.input) for item in items))
    except UNREADABLE:
        return Output()


def _size(text: str | None) -> int:
    if not text:
        return 0
    return len(text) if text.isascii() else len(text.encode())


def _json_size(value: msgspec.Raw) -> int:
    """Return the size of arguments, which some families write as an object and others as text that holds one."""
    raw = bytes(value)
    return _size(_TEXT.decode(raw)) if raw.startswith(b'"') else len(raw)


_CHAT = msgspec.json.Decoder(_ChatOutput)
_DELTA_EVENT = msgspec.json.Decoder(_DeltaEvent)
_ITEMS = msgspec.json.Decoder(_ItemsOutput)
_TEXT = msgspec.json.Decoder(str)
