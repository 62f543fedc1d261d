"""The benchmark runs whole, if only for moments, so that it cannot rot."""

import asyncio
import json
from contextlib import ExitStack

from bench.__main__ import measure, start
from bench.measure import SECTIONS, Scale
from bench.processes import split_cores
from bench.report import Results, as_json, as_table, this_machine

MOMENTS = Scale(
    rounds=1,
    warm_up_seconds=0.05,
    seconds=0.1,
    latency_seconds=0.1,
    stream_seconds=0.1,
    spread_seconds=0.1,
    streams=10,
    arrival_seconds=0.1,
    idle_streams=10,
    leavers=3,
)


def test_every_measurement_has_a_figure_of_the_gateway_and_no_failed_answer() -> None:
    results = Results(this_machine())
    with ExitStack() as running:
        backend, compared = start(
            running, split_cores(), ("direct", "nginx", "granian", "gateway", "limited"), None
        )
        asyncio.run(
            measure(compared, backend=backend, sections=tuple(SECTIONS), scale=MOMENTS, results=results)
        )
    names = [target.name for target in compared]

    assert results.failures == 0
    assert results.measures
    for subject in ("gateway", "limited"):
        assert [name for name, found in results.measures.items() if not found.summary(subject)] == []
    assert set(results.measures) == set(json.loads(as_json(results, names))["measures"])
    assert all(name in as_table(results, names) for name in results.measures)
