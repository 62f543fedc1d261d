"""What a request turns into once it is understood, and the checks both API families share."""

import hashlib
from collections.abc import Callable
from typing import Final

import msgspec

from app.simulator.decode import Body, Refusal
from app.simulator.models import Catalogue, SimulatedModel
from app.simulator.playback import Run, Shape
from app.simulator.script import Script, ToolCall, calling, instance_of, spoken, structured
from app.simulator.wire import WallClock, go_json

THINKING_SHARE: Final = 3
"""A thinking model spends one token of so many on thoughts."""

_WHOLE_OPTIONS: Final = frozenset(
    {
        "num_predict",
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "num_thread",
        "seed",
        "top_k",
        "repeat_last_n",
    }
)
_FLOAT_OPTIONS: Final = frozenset(
    {"temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"}
)


class Host(msgspec.Struct):
    """What answers depend on besides the request: the server's name, models and talkativeness."""

    name: str
    version: str
    tokens: int
    interval_ns: int
    catalogue: Catalogue
    clock: WallClock


class Spoken(msgspec.Struct, kw_only=True):
    """An answer the model has to speak. `keep_alive` in ns, None when the request did not say."""

    model: SimulatedModel
    echo: bytes
    script: Script
    prompt_tokens: int
    stream: bool
    shape: Callable[[Run, WallClock], Shape]
    keep_alive: int | None = None


class Quick(msgspec.Struct, kw_only=True):
    """An answer that needs the model in memory but no evaluation: loads, unloads, embeddings.

    `body` is called with the load and total duration in ns.
    """

    model: SimulatedModel
    content_type: bytes
    body: Callable[[int, int], bytes]
    keep_alive: int | None = None
    unload: bool = False


Job = Spoken | Quick


def require_model(host: Host, name: str, *, quoted: str = "'{}'", hint: str = "") -> SimulatedModel:
    """Return a hosted model.

    Raises
    ------
    Refusal
        404 with Ollama's text, which differs a little between routes.
    """
    model = host.catalogue.find(name)
    if model is None:
        raise Refusal(404, f"model {quoted.format(name)} not found{hint}")
    return model


def require_capability(model: SimulatedModel, name: str, capability: str, verb: str) -> None:
    """Raise the 400 `Refusal` of a model that cannot do what is asked."""
    if capability not in model.capabilities:
        raise Refusal(400, f'"{name}" does not support {verb}')


def check_options(options: Body) -> None:
    """Raise the 500 `Refusal` Ollama answers to an option of the wrong type (keys match exactly)."""
    for key, value in options.items():
        if value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in _WHOLE_OPTIONS and not number:
            raise Refusal(500, f'option "{key}" must be of type integer')
        if key in _FLOAT_OPTIONS and not number:
            raise Refusal(500, f'option "{key}" must be of type float32')


def output_cap(value: object) -> int | None:
    """Return the cap on output tokens; zero and below mean none."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 1:
        return int(value)
    return None


def compose(
    host: Host, *, prompt: str, cap: int | None, think: bool, tools: list[object], schema: object
) -> Script:
    """Return what the model says.

    A tool is called if the prompt names it or speaks of a tool; `schema` ("json" or an object) asks for JSON.
    """
    call = _wanted_call(tools, prompt)
    if call is not None:
        return calling(call)
    if schema is not None:
        return structured(
            go_json(instance_of(schema)).decode() if schema != "json" else '{"answer":"text"}', cap
        )
    thoughts = max(1, host.tokens // THINKING_SHARE) if think and host.tokens > 1 else 0
    return spoken(host.name, host.tokens, thoughts, cap)


def _wanted_call(tools: list[object], prompt: str) -> ToolCall | None:
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(function, dict) and isinstance(name, str) and (name in prompt or "tool" in prompt):
            arguments = instance_of(function.get("parameters"))
            call_id = "call_" + hashlib.sha256(name.encode()).hexdigest()[:8]
            return ToolCall(call_id, name, arguments if isinstance(arguments, dict) else {})
    return None
