"""Ollama's inference routes and, field by field, what their requests may carry upstream."""

from collections.abc import Mapping
from enum import Enum, StrEnum

import msgspec

from domain.strict_json import KnownFields
from domain.values import ApiFamily


class RouteKind(StrEnum):
    """What a route makes, which decides where its prompt and its usage are found."""

    GENERATE = "generate"
    CHAT = "chat"
    EMBED = "embed"


class FieldAction(Enum):
    """What happens to a field that Ollama knows.

    forward: travels as the client's exact bytes. police: what happens to it is a matter of option policy
    (`domain.policies`). withhold: looked at where it matters, never sent; it would show what the operator
    configured, or it is written anew by the gateway. refuse: Ollama ignores it, and an answer that ignores it
    would be wrong, so the client is told.
    """

    FORWARD = "forward"
    POLICE = "police"
    WITHHOLD = "withhold"
    REFUSE = "refuse"


class RouteSpec(msgspec.Struct, frozen=True):
    """One inference route.

    `policed` maps top-level fields that option policies decide on to the policy's word for them, `imposed_as`
    the other way round says where a policy's own value goes (into `options` if that is where it belongs).
    `prompt_fields` are top-level texts that reach the model; `output_cap_field` is where Ollama reads the
    limit of output tokens (inside `options` on native routes), None where nothing is generated. `refused` says
    of fields that cannot be honoured what to do instead.
    """

    path: str
    family: ApiFamily
    kind: RouteKind
    known: KnownFields
    forwarded: frozenset[str]
    policed: dict[str, str]
    imposed_as: dict[str, str]
    prompt_fields: tuple[str, ...]
    can_stream: bool
    streams_by_default: bool
    output_cap_field: str | None
    refused: Mapping[str, str]

    @property
    def takes_images(self) -> bool:
        """Whether a body may hold images, which make it large."""
        return self.kind is RouteKind.CHAT or "images" in self.forwarded


_FORWARD, _POLICE, _WITHHOLD = FieldAction.FORWARD, FieldAction.POLICE, FieldAction.WITHHOLD
_REFUSE = FieldAction.REFUSE

OPTION_ACTIONS = {
    **dict.fromkeys(
        (
            "num_keep",
            "seed",
            "top_k",
            "top_p",
            "min_p",
            "tfs_z",
            "typical_p",
            "repeat_last_n",
            "temperature",
            "repeat_penalty",
            "presence_penalty",
            "frequency_penalty",
            "mirostat",
            "mirostat_tau",
            "mirostat_eta",
            "penalize_newline",
            "stop",
        ),
        _FORWARD,
    ),
    # Part of how a model is loaded: another value than the loaded one throws the model out for everybody.
    **dict.fromkeys(
        ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"),
        _POLICE,
    ),
    # Policed like those, but always written anew: no request goes out without a cap on its output.
    "num_predict": _WITHHOLD,
}
"""The keys of `options`; the backend matches them exactly, and what is not listed is dropped."""

OPTION_FIELDS = KnownFields(frozenset(OPTION_ACTIONS))
FORWARDED_OPTIONS = frozenset(name for name, action in OPTION_ACTIONS.items() if action is _FORWARD)
POLICED_OPTIONS = frozenset(name for name, action in OPTION_ACTIONS.items() if action is _POLICE)
STREAM_OPTION_FIELDS = KnownFields(frozenset({"include_usage"}))

_EVERY_NATIVE = {"model": _FORWARD, "options": _FORWARD, "keep_alive": _POLICE}
_EVERY_NATIVE_OUTPUT = {
    **_EVERY_NATIVE,
    **dict.fromkeys(("stream", "format", "truncate", "logprobs", "top_logprobs"), _FORWARD),
    **dict.fromkeys(("think", "shift"), _POLICE),
    "_debug_render_only": _WITHHOLD,
}
_EVERY_OPENAI_OUTPUT = {
    **dict.fromkeys(
        (
            "model",
            "stream",
            "max_tokens",
            "seed",
            "stop",
            "temperature",
            "top_p",
            "frequency_penalty",
            "presence_penalty",
            "logprobs",
        ),
        _FORWARD,
    ),
    "stream_options": _WITHHOLD,
    "max_completion_tokens": _WITHHOLD,
    "_debug_render_only": _WITHHOLD,
}

RESPONSES_PATH = "/v1/responses"
MESSAGES_PATH = "/v1/messages"

_NOTHING_IS_KEPT = "is not supported: no response is kept here; "
_REFUSED = {
    "previous_response_id": f"'previous_response_id' {_NOTHING_IS_KEPT}send the whole conversation in 'input'",
    "conversation": f"'conversation' {_NOTHING_IS_KEPT}send the whole conversation in 'input'",
    "background": f"'background' {_NOTHING_IS_KEPT}leave it out and wait for the answer, or stream it",
    "prompt": "'prompt' is not supported: no prompt templates are kept here; send the text in 'input'",
}
"""What makes a Responses request lean on what an earlier one left behind. Ollama ignores it, and would answer
as if there had been no conversation; `store` is dropped, because the answer itself says `"store": false`."""

_FIELDS: dict[str, dict[str, FieldAction]] = {
    "/api/generate": {
        **_EVERY_NATIVE_OUTPUT,
        **dict.fromkeys(("prompt", "suffix", "images"), _FORWARD),
        **dict.fromkeys(("system", "template", "context", "raw"), _POLICE),
    },
    "/api/chat": {**_EVERY_NATIVE_OUTPUT, **dict.fromkeys(("messages", "tools"), _FORWARD)},
    "/api/embed": {**_EVERY_NATIVE, **dict.fromkeys(("input", "truncate", "dimensions"), _FORWARD)},
    "/api/embeddings": {**_EVERY_NATIVE, "prompt": _FORWARD},
    "/v1/chat/completions": {
        **_EVERY_OPENAI_OUTPUT,
        **dict.fromkeys(("messages", "tools", "response_format", "top_logprobs"), _FORWARD),
        **dict.fromkeys(("reasoning", "reasoning_effort"), _POLICE),
    },
    "/v1/completions": {**_EVERY_OPENAI_OUTPUT, "prompt": _FORWARD, "suffix": _FORWARD},
    "/v1/embeddings": dict.fromkeys(("model", "input", "dimensions", "encoding_format"), _FORWARD),
    RESPONSES_PATH: {
        **dict.fromkeys(
            (
                "model",
                "input",
                "instructions",
                "tools",
                "stream",
                "max_output_tokens",
                "temperature",
                "top_p",
                "text",
                "truncation",
            ),
            _FORWARD,
        ),
        "reasoning": _POLICE,
        **dict.fromkeys(_REFUSED, _REFUSE),
    },
    MESSAGES_PATH: {
        **dict.fromkeys(
            (
                "model",
                "max_tokens",
                "messages",
                "system",
                "tools",
                "stream",
                "stop_sequences",
                "temperature",
                "top_p",
                "top_k",
            ),
            _FORWARD,
        ),
        **dict.fromkeys(("thinking", "output_config"), _POLICE),
    },
}

_KINDS = {
    "/api/generate": RouteKind.GENERATE,
    "/api/chat": RouteKind.CHAT,
    "/api/embed": RouteKind.EMBED,
    "/api/embeddings": RouteKind.EMBED,
    "/v1/chat/completions": RouteKind.CHAT,
    "/v1/completions": RouteKind.GENERATE,
    "/v1/embeddings": RouteKind.EMBED,
    RESPONSES_PATH: RouteKind.CHAT,
    MESSAGES_PATH: RouteKind.CHAT,
}

_FAMILIES = {RESPONSES_PATH: ApiFamily.RESPONSES, MESSAGES_PATH: ApiFamily.ANTHROPIC}
_OUTPUT_CAP_FIELDS = {
    ApiFamily.NATIVE: "num_predict",
    ApiFamily.OPENAI: "max_tokens",
    ApiFamily.RESPONSES: "max_output_tokens",
    ApiFamily.ANTHROPIC: "max_tokens",
}

_POLICY_WORDS = dict.fromkeys(("reasoning", "reasoning_effort", "thinking", "output_config"), "think")
"""Other APIs' words for a field that option policies know by Ollama's."""

_PROMPT_FIELDS = ("prompt", "suffix", "system", "template")


def inference_routes(extra_fields: frozenset[str] = frozenset()) -> dict[str, RouteSpec]:
    """Return the routes by path.

    Parameters
    ----------
    extra_fields
        Top-level names the operator lets through on every route although this table does not know them. Names
        the table withholds stay withheld.

    Raises
    ------
    ValueError
        An extra name differs from a known one in case only.
    """
    return {path: _route(path, extra_fields) for path in _FIELDS}


def _route(path: str, extra_fields: frozenset[str]) -> RouteSpec:
    actions = dict.fromkeys(extra_fields, _FORWARD) | _FIELDS[path]
    native = path.startswith("/api/")
    family = ApiFamily.NATIVE if native else _FAMILIES.get(path, ApiFamily.OPENAI)
    kind = _KINDS[path]
    makes_text = kind is not RouteKind.EMBED
    policed = {name: _POLICY_WORDS.get(name, name) for name, action in actions.items() if action is _POLICE}
    imposed_as = {field: name for name, field in policed.items()}
    if native:
        imposed_as |= {name: name for name in POLICED_OPTIONS}
    return RouteSpec(
        path=path,
        family=family,
        kind=kind,
        known=KnownFields(frozenset(actions)),
        forwarded=frozenset(name for name, action in actions.items() if action is _FORWARD),
        policed=policed,
        imposed_as=imposed_as,
        prompt_fields=tuple(
            name for name in _PROMPT_FIELDS if _FIELDS[path].get(name) in {_FORWARD, _POLICE}
        ),
        can_stream=makes_text,
        streams_by_default=makes_text and native,
        output_cap_field=_OUTPUT_CAP_FIELDS[family] if makes_text else None,
        refused={name: _REFUSED[name] for name, action in actions.items() if action is _REFUSE},
    )
