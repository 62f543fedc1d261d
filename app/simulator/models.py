"""The models a simulated server hosts, and how their names are matched."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from app.simulator.wire import go_json

_PART: Final = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}", re.ASCII)
_SIZE_IN_TAG: Final = re.compile(r"(\d+(?:\.\d+)?)b", re.IGNORECASE)
_THINKERS: Final = ("qwen3", "deepseek-r1", "gpt-oss", "magistral")
_FAMILY: Final = re.compile(r"[a-z]+")


def canonical_name(name: str) -> str | None:
    """Return the short display form of a model name (`llama3.2:latest`), None if it is not a valid name.

    Default host, `library` and the `:local` suffix are dropped, a missing tag is `latest`, case is folded.
    """
    name = name.strip()
    stem, colon, source = name.rpartition(":")
    if colon and source.strip().lower() == "local":
        name = stem
    if "://" in name:
        name = name.partition("://")[2]
    if name.rfind(":") > name.rfind("/"):
        name, _, tag = name.rpartition(":")
    else:
        tag = "latest"
    parts = [part.lower() for part in name.split("/")]
    if len(parts) > 3:  # noqa: PLR2004 - host, namespace, model
        return None
    if len(parts) == 3 and parts[0] == "registry.ollama.ai":  # noqa: PLR2004
        del parts[0]
    if len(parts) == 2 and parts[0] == "library":  # noqa: PLR2004
        del parts[0]
    tag = tag.lower()
    if all(_PART.fullmatch(part) for part in (*parts, tag)):
        return "/".join(parts) + ":" + tag
    return None


class SimulatedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One hosted model, as an order names it. Fields left empty are derived from the name.

    `digest` defaults to a hash of the name, so that two servers agree about equal names. `size` is in bytes.
    `remote_host` and `remote_model` make it a stub for a cloud model, as lists would show it.
    """

    name: str
    digest: str = ""
    size: int = 2_019_393_189
    modified_at: str = "2026-01-15T12:00:00Z"
    capabilities: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization_level: str = "Q4_K_M"
    context_length: int = 8192
    embedding_length: int = 64
    remote_host: str = ""
    remote_model: str = ""

    def completed(self) -> "SimulatedModel":
        """Return the model with every derived field filled in.

        Raises
        ------
        ValueError
            The name is not a valid model name.
        """
        name = canonical_name(self.name)
        if name is None:
            raise ValueError(f"not a model name: {self.name!r}")
        size = _SIZE_IN_TAG.search(name.partition(":")[2])
        return msgspec.structs.replace(
            self,
            name=name,
            digest=self.digest or hashlib.sha256(name.encode()).hexdigest(),
            capabilities=self.capabilities or _capabilities(name),
            parameter_size=self.parameter_size or (f"{size.group(1)}B" if size else "3.2B"),
        )

    def details(self) -> dict[str, object]:
        """Return the `details` object of lists."""
        match = _FAMILY.match(self.name.rpartition("/")[2])
        family = match.group() if match else "llama"
        return {
            "parent_model": "",
            "format": "gguf",
            "family": family,
            "families": [family],
            "parameter_size": self.parameter_size,
            "quantization_level": self.quantization_level,
            "context_length": self.context_length,
            "embedding_length": self.embedding_length,
        }

    def listed(self) -> dict[str, object]:
        """Return the entry of `/api/tags`."""
        remote = {"remote_model": self.remote_model, "remote_host": self.remote_host}
        return {
            "name": self.name,
            "model": self.name,
            **{key: value for key, value in remote.items() if value},
            "modified_at": self.modified_at,
            "size": self.size,
            "digest": self.digest,
            "details": self.details(),
            "capabilities": list(self.capabilities),
        }

    @property
    def namespace(self) -> str:
        """The owner shown by `/v1/models`."""
        return self.name.rpartition("/")[0].rpartition("/")[2] or "library"


def _capabilities(name: str) -> tuple[str, ...]:
    if "embed" in name:
        return ("embedding",)
    if name.startswith(_THINKERS):
        return ("completion", "tools", "thinking")
    return ("completion", "tools")


def parse_model_list(text: str) -> tuple[SimulatedModel, ...]:
    """Return the models of a command-line list: `name[@digest]`, separated by commas.

    Raises
    ------
    ValueError
        One of the names is not valid.
    """
    models = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, digest = item.partition("@")
        models.append(SimulatedModel(name=name, digest=digest).completed())
    return tuple(models)


class Catalogue:
    """The hosted models; replaced as a whole."""

    def __init__(self, models: Iterable[SimulatedModel]) -> None:
        self._by_name: dict[str, SimulatedModel] = {}
        self._by_spelling: dict[str, SimulatedModel] = {}
        self.tags_body = b""
        self.replace(models)

    def __iter__(self) -> Iterator[SimulatedModel]:
        """Iterate, newest first."""
        return iter(sorted(self._by_name.values(), key=lambda model: model.modified_at, reverse=True))

    def replace(self, models: Iterable[SimulatedModel]) -> None:
        """Host exactly these models from now on."""
        self._by_name = {model.name: model for model in models}
        self._by_spelling = {}
        self.tags_body = go_json({"models": [model.listed() for model in self]})

    def find(self, spelling: str) -> SimulatedModel | None:
        """Return the model a client means, None if it is not hosted."""
        found = self._by_spelling.get(spelling)
        if found is None:
            name = canonical_name(spelling)
            found = self._by_name.get(name) if name else None
            if found is not None:
                self._by_spelling[spelling] = found
        return found
