"""Every operation of the admin API, found in the document, and something of each kind for its path to name."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Self

import httpx
from pydantic import SecretStr

from db.redis.connection import connect_patient
from db.redis.job_board import JobBoard, JobRun
from domain.jobs import USAGE_PRUNE, USAGE_ROLL_UP, JobOrder
from tests.support.admin import API, Desk, new_slug, wait_for

UNKNOWN_ID: Final = "00000000-0000-7000-8000-000000000000"
BACKEND: Final = "a"
FIELD: Final = "num_ctx"
RULE: Final = {"action": "strip"}
PATTERN: Final = "llama3.2:latest"
FAILED_JOB: Final = USAGE_PRUNE
"""Runs by itself once a day, so nothing but a test makes another run of it."""
OTHER_JOB: Final = USAGE_ROLL_UP


class Operation(NamedTuple):
    """One operation of the document."""

    path: str
    method: str
    described: dict[str, Any]

    @property
    def name(self) -> str:
        """Its operation id."""
        return str(self.described["operationId"])

    @property
    def body(self) -> dict[str, Any] | None:
        """The example of its body, with names that nobody has; None if it takes none."""
        content = self.described.get("requestBody", {}).get("content", {}).get("application/json", {})
        example: dict[str, Any] | None = content.get("example")
        return example | {"slug": new_slug()} if example and "slug" in example else example


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    """Yield every operation of the admin API."""
    for path, methods in document["paths"].items():
        if path.startswith(API):
            for method, described in methods.items():
                yield Operation(path, method, described)


async def failing(desk: Desk, order: JobOrder) -> None:
    """Have it said that a job's last run failed, once it neither waits nor runs."""

    async def idle() -> bool:
        job = (await desk.get(f"/jobs/{order.name}")).json()
        return job["state"] == "idle" and job["lastRun"] is not None

    await wait_for(idle)
    now = datetime.now(UTC)
    redis = connect_patient(SecretStr(desk.gateway.redis_url))
    await JobBoard(redis).ended(order.name, JobRun("failed", now, now, "TimeoutError"))
    await redis.aclose()


class World:
    """A tenant with a key, a grant of each, and a rule at every level; an admin key; and a job that failed."""

    def __init__(self, slug: str, key: str, admin_key: str, grant: str, key_grant: str) -> None:
        self.slug = slug
        self.key = key
        self.admin_key = admin_key
        self.grant = grant
        self.key_grant = key_grant

    @classmethod
    async def made_by(cls, desk: Desk) -> Self:
        """Create it all."""
        slug = await desk.tenant()
        key = str((await desk.new_key(slug))["summary"]["id"])
        tenant_path, key_path = f"/tenants/{slug}", f"/tenants/{slug}/keys/{key}"
        grants = [
            (await desk.post(f"{path}/grants", {"pattern": PATTERN})).json()["id"]
            for path in (tenant_path, key_path)
        ]
        made = await desk.post("/admin-keys", {"name": "ops"})
        world = cls(slug, key, str(made.json()["summary"]["id"]), *grants)
        await failing(desk, FAILED_JOB)
        for path in (
            *(tenant_path, key_path),
            *(f"{tenant_path}/grants/{world.grant}", f"{key_path}/grants/{world.key_grant}"),
        ):
            reply = await desk.put(f"{path}/policies/{FIELD}", RULE)
            assert reply.status_code == httpx.codes.OK, reply.text
        return world

    def parameters(self, path: str) -> dict[str, str]:
        """Return what stands for the parameters of a path."""
        return {
            "slug": self.slug,
            "key": self.admin_key if path.startswith(f"{API}/admin-keys") else self.key,
            "job": (FAILED_JOB if path.endswith("/retry") else OTHER_JOB).name,
            "grant": self.key_grant if "{key}" in path else self.grant,
            "field": FIELD,
            "name": BACKEND,
        }

    def path_of(self, operation: Operation, **others: str) -> str:
        """Return the path of an operation about this world, but for `others`."""
        return operation.path.format(**self.parameters(operation.path) | others)

    async def state(self, desk: Desk, document: dict[str, Any]) -> dict[str, bytes]:
        """Return all that there is to read about it."""
        return {
            path: (await desk.client.get(path)).content
            for each in operations(document)
            if each.method == "get" and "{slug}" in each.path
            for path in [self.path_of(each)]
        }
