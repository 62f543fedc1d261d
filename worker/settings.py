"""What the worker process needs beside the shared settings."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from db.settings import MirrorSettings, SharedSettings, load_settings


class WorkerSettings(SharedSettings, MirrorSettings):
    """Discovery's rhythm, the mirror of the revocations, retention, and the worker's own liveness endpoint."""

    discovery_interval_s: Annotated[
        float, Field(validation_alias="MODEL_DISCOVERY_INTERVAL_SECONDS", gt=0, le=86_400)
    ] = 15.0
    discovery_timeout_s: Annotated[
        float, Field(validation_alias="MODEL_DISCOVERY_TIMEOUT_SECONDS", gt=0, le=300)
    ] = 5.0
    discovery_stale_s: Annotated[
        float, Field(validation_alias="MODEL_DISCOVERY_STALE_SECONDS", ge=0, le=604_800)
    ] = 120.0
    usage_retention_months: Annotated[
        int | None, Field(validation_alias="GATEWAY_USAGE_RETENTION_MONTHS", ge=1, le=1200)
    ] = None
    health_host: Annotated[str, Field(validation_alias="GATEWAY_WORKER_HEALTH_HOST")] = "127.0.0.1"
    health_port: Annotated[int, Field(validation_alias="GATEWAY_WORKER_HEALTH_PORT", ge=0, le=65_535)] = 8001


def load_worker_settings(environ: Mapping[str, str]) -> WorkerSettings:
    """Return the worker's settings.

    Raises
    ------
    SettingsError
        A value is missing, wrong or contradicts another.
    """
    return load_settings(WorkerSettings, environ)
