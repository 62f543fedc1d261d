"""The bodies of the routes that only read, as types: for their description only (see `app.openapi_types`)."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.openapi_types import Count, Model, Text


class LoadedModelEntry(msgspec.Struct):
    """One model in a backend's memory. `expires_at` is rounded up to five minutes."""

    name: str
    model: str
    size: Count
    digest: str
    details: dict[str, Any]
    expires_at: str
    size_vram: Count
    context_length: Count


class LoadedModelEntries(msgspec.Struct):
    """The models in memory among those that the key may use, longest to stay first."""

    models: list[LoadedModelEntry]


class ShowRequest(msgspec.Struct):
    """Ask what a model is."""

    model: Model | UnsetType = UNSET
    name: Annotated[str, Meta(description="The older word for `model`.")] | UnsetType = UNSET
    verbose: Annotated[bool, Meta(description="Ignored: the long lists are never shown.")] | UnsetType = UNSET


class ShowAnswer(msgspec.Struct):
    """What a model is and can do, without what its operator wrote or where its files are."""

    modelfile: Annotated[str, Meta(description="Names the model and nothing else.")]
    template: Annotated[str, Meta(description="A stand-in that holds the variables which the model knows.")]
    details: dict[str, Any]
    model_info: dict[str, Any]
    capabilities: list[str]
    parameters: Text = UNSET
    license: Text = UNSET


class Cloud(msgspec.Struct):
    """Whether models run in Ollama's cloud."""

    disabled: Literal[True]
    source: str


class CloudStatus(msgspec.Struct):
    """What a client may expect of the cloud: nothing."""

    cloud: Cloud


class Recommendations(msgspec.Struct):
    """Models to download; always empty."""

    recommendations: Annotated[list[dict[str, Any]], Meta(max_length=0)]


class LimitStanding(msgspec.Struct):
    """One limit. What is not known at the moment is null."""

    kind: str
    scope: Literal["tenant", "key"]
    limit: Count
    used: Count | None
    reserved: Annotated[Count | None, Meta(description="Held for requests that run.")]
    remaining: Count | None
    resets_at: str | None


class Me(msgspec.Struct):
    """Whom the key belongs to, and what is left to it."""

    tenant: str
    key: Annotated[str, Meta(description="The key's prefix.")]
    expires_at: str | None
    time_zone: str
    limits: list[LimitStanding]
    models: Annotated[
        list[str] | None,
        Meta(description="Those that are hosted now and that the key may use; null if not known yet."),
    ]
