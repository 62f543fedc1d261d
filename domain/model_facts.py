"""What a tenant may know of a model, picked from what backends say of it.

Backends also tell file paths, the operator's system prompt, where a model came from and how large the machine is.
So nothing passes that is not named here, and of what is named only what looks like what it should be.
"""

import re
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from domain.routes import FORWARDED_OPTIONS

MAX_LICENSE_CHARS: Final = 32 * 1024
"""A longer licence is left out: some models carry megabytes of them."""

_WORD: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63})?")
_INFO_KEY: Final = re.compile(r"[a-z0-9_.-]{1,128}")
_CAPABILITY: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_PARAMETER: Final = re.compile(r"([a-z_]{1,32})\s+([\x21-\x7e](?:[\x20-\x7e]{0,254}[\x21-\x7e])?)")
_MOST: Final = 256

_DETAILS: Final = (
    "format",
    "family",
    "families",
    "parameter_size",
    "quantization_level",
    "context_length",
    "embedding_length",
)
_GENERAL: Final = (
    "general.architecture",
    "general.type",
    "general.size_label",
    "general.file_type",
    "general.parameter_count",
    "general.quantization_version",
)
_PARAMETERS: Final = FORWARDED_OPTIONS | {"num_ctx", "num_predict"}
"""Those that say how the model answers. How it is placed on the machine is the operator's matter."""


class ModelFacts(msgspec.Struct, frozen=True):
    """What one backend says of one model, as far as tenants may know it. `capabilities` None: it says nothing."""

    details: dict[str, object]
    model_info: dict[str, object]
    capabilities: tuple[str, ...] | None
    parameters: str
    license: str


def read_facts(body: bytes) -> ModelFacts | None:
    """Pick the facts from the body of `/api/show`, None if it is not what Ollama says there."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    licence, parameters, capabilities = (said.get(name) for name in ("license", "parameters", "capabilities"))
    return ModelFacts(
        details=public_details(_mapping(said.get("details"))),
        model_info=_model_info(_mapping(said.get("model_info"))),
        capabilities=public_capabilities(capabilities) if isinstance(capabilities, list) else None,
        parameters=_parameters(parameters) if isinstance(parameters, str) else "",
        license=licence if isinstance(licence, str) and len(licence) <= MAX_LICENSE_CHARS else "",
    )


def public_details(details: Mapping[str, object]) -> dict[str, object]:
    """Pick from the `details` of a list or of `/api/show`."""
    return {name: details[name] for name in _DETAILS if name in details and _is_plain(details[name])}


def public_capabilities(capabilities: Collection[object]) -> tuple[str, ...]:
    """Pick the words from a list of capabilities."""
    return tuple(c for c in capabilities if isinstance(c, str) and _CAPABILITY.fullmatch(c))[:_MOST]


def show_answer(
    facts: ModelFacts,
    *,
    name: str,
    requested: str,
    capabilities: Collection[str] | None,
    context_length: int | None,
) -> bytes:
    """Return the body of `/api/show` for a tenant.

    Parameters
    ----------
    facts
        What one backend says.
    name
        The model's canonical name.
    requested
        The client's spelling. Ollama puts it into `general.basename` for clients that show that to people.
    capabilities, context_length
        What every backend that hosts the model offers (see `app.gateway.lists`), None where that is not known;
        nothing beyond is promised.
    """
    offered = facts.capabilities
    if offered is not None and capabilities is not None:
        offered = tuple(capability for capability in offered if capability in capabilities)
    elif offered is None:
        offered = tuple(capabilities or ())
    answer: dict[str, object] = {
        "modelfile": f"FROM {name}\n",
        "template": _template(offered),
        "details": _bounded(facts.details, "context_length", context_length),
        "model_info": _bounded(
            {**facts.model_info, "general.basename": requested},
            f"{facts.model_info.get('general.architecture', '')}.context_length",
            context_length,
        ),
        "capabilities": offered,
    }
    if facts.parameters:
        answer["parameters"] = facts.parameters
    if facts.license:
        answer["license"] = facts.license
    return msgspec.json.encode(answer)


def _template(capabilities: Collection[str]) -> str:
    """Return a stand-in for the operator's template: clients look there for what a model can do."""
    parts = [(".Tools", "tools"), (".Suffix", "insert")]
    return "{{ .Prompt }}" + "".join(
        f"{{{{ {variable} }}}}" for variable, capability in parts if capability in capabilities
    )


def _bounded(facts: dict[str, object], name: str, bound: int | None) -> dict[str, object]:
    value = facts.get(name)
    if bound is None or type(value) is not int or value <= bound:
        return facts
    return {**facts, name: bound}


def _model_info(info: Mapping[str, object]) -> dict[str, object]:
    """Keep the general facts, and the numbers of the model's own architecture."""
    kept = {name: info[name] for name in _GENERAL if name in info and _is_plain(info[name])}
    architecture = kept.get("general.architecture")
    if not architecture or not isinstance(architecture, str):
        return kept
    for name, value in info.items():
        if len(kept) >= _MOST:
            break
        if name.startswith(f"{architecture}.") and _INFO_KEY.fullmatch(name) and _is_number(value):
            kept[name] = value
    return kept


def _parameters(text: str) -> str:
    found = (_PARAMETER.fullmatch(line.strip()) for line in text.splitlines()[:_MOST])
    return "\n".join(match[0] for match in found if match and match[1] in _PARAMETERS)


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= _MOST and all(isinstance(each, str) and _WORD.fullmatch(each) for each in value)
    return _is_number(value) or (isinstance(value, str) and _WORD.fullmatch(value) is not None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
