"""What a scrape shows, who may scrape, and that nothing a client sends makes a series."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from litestar import Litestar
from litestar.types import ASGIApp

from app.health import metrics_handler
from app.metrics import Metrics, RouteMetrics
from domain.usage import UsageOutcome
from tests.support.asgi import ask
from tests.support.repository import ROOT

TOKEN: Final = "of-the-tests"


def shown(metrics: Metrics) -> dict[str, float]:
    lines = metrics.exposition().decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def test_counts_show_in_the_next_scrape() -> None:
    metrics = Metrics()
    route = RouteMetrics(metrics, "/api/chat")

    for _ in range(2):
        route.answered(200)
    route.answered(503)
    route.ended(UsageOutcome.COMPLETED)
    route.dropped(3)
    route.dropped(0)
    metrics.add(metrics.tokens, ("out", "measured"), 7)

    samples = shown(metrics)
    assert samples['nng_requests_total{route="/api/chat",status="200"}'] == 2
    assert samples['nng_requests_total{route="/api/chat",status="503"}'] == 1
    assert samples['nng_admitted_requests_total{outcome="completed",route="/api/chat"}'] == 1
    assert samples['nng_dropped_request_fields_total{route="/api/chat"}'] == 3
    assert samples['nng_tokens_total{direction="out",source="measured"}'] == 7


def test_a_second_scrape_counts_nothing_twice() -> None:
    metrics = Metrics()
    RouteMetrics(metrics, "/api/chat").answered(200)

    shown(metrics)

    assert shown(metrics)['nng_requests_total{route="/api/chat",status="200"}'] == 1


def test_first_tokens_fall_into_buckets_of_seconds() -> None:
    metrics = Metrics()
    RouteMetrics(metrics, "/api/chat").first_token.observe(0.2)

    samples = shown(metrics)
    assert samples['nng_time_to_first_token_seconds_bucket{le="0.1",route="/api/chat"}'] == 0
    assert samples['nng_time_to_first_token_seconds_bucket{le="0.25",route="/api/chat"}'] == 1
    assert samples['nng_time_to_first_token_seconds_bucket{le="+Inf",route="/api/chat"}'] == 1


@pytest.fixture
def refreshed() -> list[bool]:
    return []


@pytest.fixture
def app(refreshed: list[bool]) -> ASGIApp:
    return service(TOKEN, refreshed)


def service(token: str | None, refreshed: list[bool]) -> ASGIApp:
    handler = metrics_handler(Metrics(), token=token, refresh=lambda: refreshed.append(True))
    return Litestar([handler], openapi_config=None, logging_config=None)


async def test_t36_the_token_opens_the_figures(app: ASGIApp, refreshed: list[bool]) -> None:
    answer = await ask(app, "GET", b"/metrics", [(b"authorization", f"Bearer {TOKEN}".encode())])

    assert answer.status == 200
    assert answer.header(b"content-type") == b"text/plain; version=0.0.4; charset=utf-8"
    assert b"nng_in_flight_requests 0.0" in answer.body
    assert refreshed == [True]


@pytest.mark.parametrize(
    "presented",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer wrong",
        b"of-the-tests",
        b"Bearer of-the-tests ",
        b"Basic of-the-tests",
        b"Bearer \xff",
    ],
)
async def test_t36_without_the_token_there_is_nothing(
    app: ASGIApp, refreshed: list[bool], presented: bytes
) -> None:
    answer = await ask(app, "GET", b"/metrics", [(b"authorization", presented)])

    assert answer.status == 404
    assert refreshed == []


@pytest.mark.parametrize("presented", [b"Bearer ", b"Bearer None", b""])
async def test_t36_without_a_token_in_the_settings_nobody_sees_figures(
    refreshed: list[bool], presented: bytes
) -> None:
    answer = await ask(service(None, refreshed), "GET", b"/metrics", [(b"authorization", presented)])

    assert answer.status == 404


async def test_t36_a_token_in_the_query_opens_nothing(app: ASGIApp) -> None:
    answer = await ask(
        app, "GET", b"/metrics", query=b"token=of-the-tests&authorization=Bearer%20of-the-tests"
    )

    assert answer.status == 404


PROGRAM = r"""
import os, sys
from app.metrics import Metrics, RouteMetrics
metrics = Metrics(multiprocess_dir=os.environ["PROMETHEUS_MULTIPROC_DIR"])
RouteMetrics(metrics, "/api/chat").answered(200)
metrics.in_flight.set(int(sys.argv[1]))
metrics.flush()
print("ready", flush=True)
sys.stdin.read()
sys.stdout.write(metrics.exposition().decode())
"""


def test_processes_add_up_and_the_dead_leave_their_counts_but_not_their_gauges(tmp_path: Path) -> None:
    def start(in_flight: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(in_flight)],
            env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    with start(5) as dying, start(3), start(4) as scraped:
        dying.kill()
        dying.wait()
        figures, _ = scraped.communicate("")

    assert 'nng_requests_total{route="/api/chat",status="200"} 3.0' in figures
    assert "nng_in_flight_requests 7.0" in figures
