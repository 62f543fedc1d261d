"""Figures, their description, alerts and dashboard speak of the same things."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml

from app.metrics import Metrics
from tests.support.repository import ROOT, text_of

RULES: Final = "ops/prometheus/neuronetz-gateway.yml"
DASHBOARD: Final = "ops/grafana/neuronetz-gateway.json"
PAGE: Final = text_of("docs/observability.md")
ALERTS: Final[list[dict[str, Any]]] = yaml.safe_load(text_of(RULES))["groups"][0]["rules"]

_SERIES: Final = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}
_SELECTOR: Final = re.compile(r"(nng_[a-z_]+)(?:\{([^}]*)\})?")


def _metrics() -> dict[str, tuple[str, set[str]]]:
    """Return kind and labels of every metric, by the name that pages call it by."""
    metrics = vars(Metrics()).values()
    own = [each for each in metrics if hasattr(each, "_labelnames")]
    return {
        each._name + ("_total" if each._type == "counter" else ""): (each._type, set(each._labelnames))  # noqa: SLF001
        for each in own
    }


METRICS: Final = _metrics()
SERIES: Final = {
    name.removesuffix("_total") + suffix: labels
    for name, (kind, labels) in METRICS.items()
    for suffix in _SERIES[kind]
}


def _expressions() -> Iterator[str]:
    yield from (alert["expr"] for alert in ALERTS)
    for panel in json.loads(text_of(DASHBOARD))["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))


def _described() -> dict[str, set[str]]:
    rows = re.findall(r"^\| `(nng_\w+)` \| ([^|]*)\|", PAGE, re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def test_every_metric_is_described_with_its_labels_and_no_other() -> None:
    assert _described() == {name: labels for name, (_, labels) in METRICS.items()}


def test_alerts_and_dashboard_ask_for_series_that_exist() -> None:
    asked = {name for expression in _expressions() for name, _ in _SELECTOR.findall(expression)}

    assert asked - set(SERIES) == set()


def test_alerts_and_dashboard_select_and_group_by_labels_that_exist() -> None:
    for expression in _expressions():
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression)))) - {"le"}
        for name, selection in _SELECTOR.findall(expression):
            assert grouped | set(re.findall(r"(\w+)[=!]", selection)) <= SERIES[name], expression


def test_the_dashboard_shows_every_metric() -> None:
    text = text_of(DASHBOARD)

    assert [name for name in METRICS if name not in text] == []


def test_every_alert_says_what_to_do() -> None:
    described = re.findall(r"^\| `(Gateway\w+)` \|", PAGE, re.MULTILINE)

    assert described == [alert["alert"] for alert in ALERTS]


def test_prometheus_takes_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool (Debian has it in the package prometheus)")

    for words in (("check", "rules", str(ROOT / RULES)), ("test", "rules", "tests/contracts/alerts.yml")):
        ran = subprocess.run((promtool, *words), cwd=ROOT, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
