"""Backends, models, jobs and usage by the admin API."""

from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from app.cli.control.client import AdminClient, NotFound, segment
from app.cli.control.job_end import next_end
from app.cli.control.port import Changed, ExportWanted
from app.cli.control.wire import value
from app.cli.failure import CommandFailed
from app.cli.fleet_lines import BackendLine, JobLine, JobsSummary, LastRun
from app.cli.model_lines import BackendModels, ModelLine, ModelList, TableFigures
from domain.drains import BackendUnknown, checked_reason
from domain.jobs import JobOrder
from domain.tenants import Tenant
from domain.usage_report import UsageGroup, UsageReport, UsageSum

_LOOK_AGAIN_S: Final = 0.1


class RemoteUsage:
    """See `app.cli.control.port.UsageDesk`."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    async def report(
        self, by: UsageGroup, *, since: datetime, until: datetime, tenant: Tenant | None
    ) -> UsageReport:
        """Return sums."""
        answer = await self._client.get(
            "/usage/sums",
            by=by.value,
            since=since.isoformat(),
            until=until.isoformat(),
            tenant=None if tenant is None else tenant.slug,
        )
        with self._client.understood():
            lines = tuple(self._line(each, str(each[by.value])) for each in answer["lines"])
            return UsageReport(lines, self._line(answer["total"], "total"))

    async def export(self, wanted: ExportWanted) -> AsyncGenerator[bytes, None]:
        """Pass on what comes."""
        async with self._client.pieces(
            "/usage/export",
            format=wanted.layout,
            since=None if wanted.since is None else wanted.since.isoformat(),
            until=wanted.until.isoformat(),
            tenant=None if wanted.tenant is None else wanted.tenant.slug,
            cursor=wanted.cursor,
        ) as pieces:
            async for piece in pieces:
                yield piece

    def _line(self, answer: Mapping[str, Any], label: str) -> UsageSum:
        return value({**answer, "label": label}, UsageSum, of=self._client)


class RemoteFleet:
    """See `app.cli.control.port.FleetDesk`."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    async def models(self) -> ModelList:
        """Put models and backends together as the model table has them."""
        backends = await self._client.items("/backends")
        models = await self._client.items("/models")
        written_at = (await self._client.get("/backends", limit=1)).get("tableWrittenAt")
        if written_at is None:
            raise CommandFailed("That gateway has no model table yet: does its worker run?")
        with self._client.understood():
            return _model_list(backends, models, written_at)

    async def backends(self) -> tuple[BackendLine, ...]:
        """Read all pages."""
        found = await self._client.items("/backends")
        return tuple(self._line(each) for each in found)

    async def drain(self, name: str, reason: str, *, waits: bool) -> Changed[BackendLine]:
        """Take a backend out of service."""
        return await self._decide(name, "drain", {"reason": checked_reason(reason)}, waits=waits)

    async def undrain(self, name: str, *, waits: bool) -> Changed[BackendLine]:
        """Let a backend back in."""
        return await self._decide(name, "undrain", None, waits=waits)

    async def jobs(self) -> JobsSummary:
        """Read the summary."""
        answer = await self._client.get("/jobs")
        if answer.get("redisReachable") is False:
            raise CommandFailed("That gateway cannot reach Redis, where its jobs are.")
        jobs = answer.get("jobs")
        with self._client.understood():
            lines = tuple(self._job(each) for each in jobs)
        return value({**answer, "jobs": lines}, JobsSummary, of=self._client)

    async def order_job(self, order: JobOrder, *, again: bool, waits: bool) -> LastRun | None:
        """Have the gateway order it, and look now and then how it ended."""
        path = f"/jobs/{segment(order.name)}"

        async def last() -> LastRun | None:
            return self._job(await self._client.get(path)).last_run

        before = await last()
        await self._client.ask("POST", f"{path}/{'retry' if again else 'run'}")
        return await next_end(order, after=before, last=last, every_s=_LOOK_AGAIN_S) if waits else None

    async def _decide(self, name: str, decision: str, body: object, *, waits: bool) -> Changed[BackendLine]:
        path = f"/backends/{segment(name)}"
        try:
            before = self._line(await self._client.get(path))
        except NotFound:
            raise BackendUnknown(name) from None
        parameters = {"wait": "true"} if waits else None
        after = await self._client.ask("POST", f"{path}/{decision}", body, parameters=parameters)
        return Changed(before, self._line(after))

    def _line(self, answer: Mapping[str, Any]) -> BackendLine:
        with self._client.understood():
            kept = {
                **answer,
                "polledAt": answer["lastPollAt"],
                "lastOkAt": answer["lastAnswerAt"],
                "loaded": answer["loadedModels"],
            }
        return value(kept, BackendLine, of=self._client)

    def _job(self, answer: Mapping[str, Any]) -> JobLine:
        with self._client.understood():
            last = answer["lastRun"]
        run = None if last is None else value(last, LastRun, of=self._client)
        return value({**answer, "lastRun": run}, JobLine, of=self._client)


def _model_list(backends: list[dict[str, Any]], models: list[dict[str, Any]], written_at: str) -> ModelList:
    hosted: dict[str, list[ModelLine]] = {}
    for model in models:
        for host in model["hosts"]:
            line = ModelLine(model["name"], host["sizeBytes"], host["digest"], host["loaded"])
            hosted.setdefault(host["backend"], []).append(line)
    entries = sum(map(len, hosted.values()))
    return ModelList(
        backends=tuple(_backend(each, hosted.get(each["name"], [])) for each in backends),
        union_count=len(models),
        table=TableFigures(None, msgspec.convert(written_at, datetime), entries, None),
    )


def _backend(answer: Mapping[str, Any], models: list[ModelLine]) -> BackendModels:
    place = {name: at for at, name in enumerate(answer["models"])}
    return BackendModels(
        name=answer["name"],
        condition=answer["condition"],
        drained=answer["drained"],
        error=answer["error"],
        version=answer["version"],
        polled_at=_moment(answer["lastPollAt"]),
        last_ok_at=_moment(answer["lastAnswerAt"]),
        models=tuple(sorted(models, key=lambda model: place.get(model.name, len(place)))),
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else msgspec.convert(text, datetime)
