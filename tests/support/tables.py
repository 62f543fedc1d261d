"""Builders of model tables as discovery would have written them."""

from collections.abc import Collection
from datetime import UTC, datetime

from domain.model_table import BackendCondition, BackendState, HostedModel, ModelTable
from domain.route import ModelIndex

WRITTEN_AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def hosted(
    name: str = "llama3.2:latest",
    *,
    digest: str = "aa",
    modified_at: str = "2026-01-01T00:00:00Z",
    details: dict[str, object] | None = None,
    capabilities: tuple[str, ...] = (),
) -> HostedModel:
    """Build one model on one backend."""
    return HostedModel(name, digest, 7, modified_at, details or {}, capabilities)


def backend(
    name: str,
    *models: HostedModel,
    condition: BackendCondition = BackendCondition.OK,
    version: str | None = "0.33.0",
    last_ok_at: datetime = WRITTEN_AT,
    drained: bool = False,
) -> BackendState:
    """Build one backend whose config digest is that of `config_digests`."""
    return BackendState(
        name,
        f"digest of {name}",
        condition,
        models=models,
        version=version,
        last_ok_at=last_ok_at,
        polled_at=last_ok_at,
        drained=drained,
    )


def config_digests(*names: str) -> dict[str, str]:
    """Return the configuration of a process that knows these backends."""
    return {name: f"digest of {name}" for name in names}


def table(*backends: BackendState, version: int = 1) -> ModelTable:
    """Build one snapshot."""
    return ModelTable(version=version, written_at=WRITTEN_AT, backends=backends)


def index(*backends: BackendState, allow_cloud: Collection[str] = ()) -> ModelIndex:
    """Build the index of a process that is configured with all of them."""
    digests = config_digests(*(state.name for state in backends))
    return ModelIndex(table(*backends), digests, allow_cloud=allow_cloud)
