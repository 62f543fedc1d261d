"""The catalogue as clients see it: one entry per model, whoever hosts it, filtered by the key's rights."""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from math import ceil
from typing import Final

import msgspec

from domain.model_facts import public_capabilities, public_details
from domain.model_names import DEFAULT_NAMESPACE, CanonicalName, canonical
from domain.model_table import BackendCondition, BackendState, HostedModel, LoadedModel
from domain.route import ModelIndex

_LISTED: Final = frozenset({BackendCondition.OK, BackendCondition.STALE})
_VERSION: Final = re.compile(r"\d+(?:\.\d+)*")
NO_VERSION: Final = "0.0.0"
EXPIRY_STEP_S: Final = 300


class ListedModel(msgspec.Struct, frozen=True):
    """One model of the merged catalogue, encoded once per snapshot in both families' shapes.

    `capabilities` and `context_length` are what every backend that hosts it offers, None where nobody tells.
    """

    name: CanonicalName
    modified: datetime
    native: msgspec.Raw
    openai: msgspec.Raw
    digest: str
    details: dict[str, object]
    capabilities: tuple[str, ...] | None
    context_length: int | None

    def openai_as(self, requested: str) -> bytes:
        """Return the OpenAI entry under the spelling that a client asked for."""
        entry = msgspec.json.decode(self.openai, type=dict[str, msgspec.Raw])
        return msgspec.json.encode({**entry, "id": requested})


class Listing:
    """The merged lists of one snapshot, newest model first as Ollama sorts them."""

    def __init__(self, index: ModelIndex) -> None:
        states = [state for state in index.backends if state.condition in _LISTED and not state.drained]
        listed = (_merge(hosted) for hosted in _by_name(states).values())
        self.models = tuple(
            sorted((m for m in listed if m is not None), key=lambda model: model.modified, reverse=True)
        )
        self.by_name = {model.name.display: model for model in self.models}
        self.version = _lowest_version(state.version for state in states)
        self._in_memory = _first_by_name(states)

    def native(self, permit: Callable[[CanonicalName], bool]) -> bytes:
        """Return the body of `/api/tags`."""
        return b'{"models":[%b]}' % b",".join(m.native for m in self.models if permit(m.name))

    def openai(self, permit: Callable[[CanonicalName], bool]) -> bytes:
        """Return the body of `/v1/models`; `data` is a list even when it is empty."""
        return b'{"object":"list","data":[%b]}' % b",".join(m.openai for m in self.models if permit(m.name))

    def in_memory(self, permit: Callable[[CanonicalName], bool], *, now: datetime) -> bytes:
        """Return the body of `/api/ps`, longest to stay first.

        Sizes are there because `ollama ps` calls a model without them "100% CPU", and the expiry because it calls
        one without it "Stopping...". It is rounded up: the exact one would tell when somebody else last used the
        model.
        """
        found = []
        for loaded in self._in_memory:
            listed = self.by_name.get(loaded.name)
            if listed is not None and permit(listed.name):
                found.append((_rounded_up(max(_modified(loaded.expires_at), now)), loaded, listed))
        found.sort(key=lambda entry: entry[0], reverse=True)
        models = [
            {
                "name": loaded.name,
                "model": loaded.name,
                "size": loaded.size,
                "digest": listed.digest,
                "details": listed.details,
                "expires_at": expires_at,
                "size_vram": loaded.size_vram,
                "context_length": loaded.context_length or listed.context_length or 0,
            }
            for expires_at, loaded, listed in found
        ]
        return msgspec.json.encode({"models": models})


def _first_by_name(states: Iterable[BackendState]) -> tuple[LoadedModel, ...]:
    """Return what is in memory anywhere; of a model on several backends, what the operator's first one says."""
    found: dict[str, LoadedModel] = {}
    for state in states:
        for model in state.in_memory:
            found.setdefault(model.name, model)
    return tuple(found.values())


def _rounded_up(moment: datetime) -> datetime:
    seconds = ceil(moment.timestamp() / EXPIRY_STEP_S) * EXPIRY_STEP_S
    return datetime.fromtimestamp(seconds, UTC)


def _by_name(states: Iterable[BackendState]) -> dict[str, list[HostedModel]]:
    found: dict[str, list[HostedModel]] = {}
    for state in states:
        for model in state.models:
            found.setdefault(model.name, []).append(model)
    return found


def _merge(hosted: list[HostedModel]) -> ListedModel | None:
    """Make one entry of the same name on several backends.

    The newest one's metadata stand; what all of them can do is what a client may count on, so capabilities are
    the intersection and the context length is the smallest. Older servers report no capabilities at all, which
    says nothing about their models.
    """
    newest = max(hosted, key=lambda model: _modified(model.modified_at))
    name = canonical(newest.name)
    if name is None:
        return None
    modified = _modified(newest.modified_at)
    details = public_details(newest.details)
    lengths = [length for m in hosted if isinstance(length := m.details.get("context_length"), int)]
    if lengths:
        details["context_length"] = min(lengths)
    reported = [public_capabilities(m.capabilities) for m in hosted if m.capabilities]
    capabilities = (
        tuple(c for c in reported[0] if all(c in others for others in reported)) if reported else None
    )
    native: dict[str, object] = {
        "name": newest.name,
        "model": newest.name,
        "modified_at": newest.modified_at,
        "size": newest.size,
        "digest": newest.digest,
        "details": details,
    }
    if capabilities is not None:
        native["capabilities"] = capabilities
    openai = {
        "id": newest.name,
        "object": "model",
        "created": int(modified.timestamp()),
        "owned_by": _namespace(newest.name),
    }
    return ListedModel(
        name=name,
        modified=modified,
        native=msgspec.Raw(msgspec.json.encode(native)),
        openai=msgspec.Raw(msgspec.json.encode(openai)),
        digest=newest.digest,
        details=details,
        capabilities=capabilities,
        context_length=min(lengths, default=None),
    )


def _modified(text: str) -> datetime:
    try:
        return msgspec.convert(text, datetime).astimezone()
    except (msgspec.ValidationError, ValueError, OverflowError):
        return datetime.fromtimestamp(0).astimezone()


def _namespace(name: str) -> str:
    parts = name.split("/")
    return parts[-2] if len(parts) > 1 else DEFAULT_NAMESPACE


def _lowest_version(versions: Iterable[str | None]) -> str:
    """Return the lowest version as dotted integers, because clients compare it number by number."""
    found = [m.group() for version in versions if version and (m := _VERSION.match(version))]
    return min(found, key=lambda text: [int(part) for part in text.split(".")], default=NO_VERSION)
