"""What the Helm chart makes: pods that drain, probe and read only what they need. Needs Helm; skipped without."""

import importlib.util
import re
import shutil
import subprocess
from typing import Any, Final

import pytest
import yaml

from app.server import KILL_MARGIN_S
from tests.contracts.test_settings import SECRETS, VARIABLES
from tests.support.repository import ROOT, text_of

CHART: Final = ROOT / "ops/kubernetes/neuronetz-gateway"
PAUSE_S: Final = 5
KUBERNETES: Final = "1.30.0"
DIGEST: Final = f"sha256:{'0' * 64}"
VALUES: Final = (
    "trustedProxies=ingress-nginx-pods.ingress-nginx.svc.cluster.local",
    "image.repository=registry.example.com/neuronetz-gateway",
    f"image.digest={DIGEST}",
    "revocationMirror.claim=revocations",
    "ingress.enabled=true",
    "ingress.host=gateway.example.com",
    "config.GATEWAY_LOG_LEVEL=debug",
    "app.drainSeconds=100",
)
READ_BY: Final = {
    "app": {"DATABASE_URL", "REDIS_URL", "GATEWAY_KEY_PEPPER", "GATEWAY_METRICS_TOKEN", "OLLAMA_BACKENDS"},
    "admin": {"DATABASE_URL", "REDIS_URL", "GATEWAY_KEY_PEPPER", "GATEWAY_METRICS_TOKEN", "OLLAMA_BACKENDS"},
    "worker": {"DATABASE_URL", "REDIS_URL", "OLLAMA_BACKENDS"},
    "migrate": {"DATABASE_URL", "GATEWAY_ADMIN_KEY_DIGEST"},
}


def _helm(*words: str) -> subprocess.CompletedProcess[str]:
    helm = shutil.which("helm")
    if helm is None:
        pytest.skip("there is no helm")
    return subprocess.run((helm, *words), cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_page_sets_values_that_the_chart_has() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = re.findall(r"--set ([\w.]+)=", text_of("docs/kubernetes.md"))

    assert named
    for name in named:
        place = values
        for step in name.split("."):
            assert step in place, name
            place = place[step]


def test_the_page_builds_and_pushes_the_image_that_the_chart_asks_for() -> None:
    page = text_of("docs/kubernetes.md")
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    (repository,) = re.findall(r"--set image\.repository=(\S+)", page)

    assert f"docker build --file Containerfile --tag {repository}:{version} .\n" in page
    assert f"docker push {repository}:{version}\n" in page


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    """Render the chart as an operator would."""
    words = [word for value in VALUES for word in ("--set", value)]
    made = _helm("template", "gw", str(CHART), "--kube-version", KUBERNETES, *words)
    assert made.returncode == 0, made.stderr
    return [each for each in yaml.safe_load_all(made.stdout) if each]


@pytest.fixture(scope="module")
def pods(rendered: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give the pods' specifications by component."""
    kinds = {"StatefulSet", "Deployment", "Job"}
    return {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"]["template"]["spec"]
        for each in rendered
        if each["kind"] in kinds
    }


def _environment(pod: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in pod["containers"][0]["env"]}


def test_kubernetes_takes_what_is_made(rendered: list[dict[str, Any]]) -> None:
    if importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("there are no schemas: uv sync --group chart")
    validator = importlib.import_module("kubernetes_validate")

    for each in rendered:
        validator.validate(each, KUBERNETES, strict=True)


def test_nobody_s_word_on_addresses_is_believed_unasked() -> None:
    made = _helm("template", "gw", str(CHART), "--kube-version", KUBERNETES)

    assert made.returncode != 0
    assert "trustedProxies has to name the addresses of the ingress controller" in made.stderr


def test_every_variable_is_a_setting(pods: dict[str, dict[str, Any]]) -> None:
    known = {*VARIABLES, *(f"{name}_FILE" for name in SECRETS)}

    assert [name for pod in pods.values() for name in _environment(pod) if name not in known] == []


def test_each_process_gets_the_secrets_that_it_reads_and_no_other(pods: dict[str, dict[str, Any]]) -> None:
    for component, pod in pods.items():
        files = {
            name.removesuffix("_FILE"): path for name, path in _environment(pod).items() if "_FILE" in name
        }
        volume = next(each["secret"] for each in pod["volumes"] if each["name"] == "secrets")

        assert set(files) == READ_BY[component]
        mounted = {f"/run/secrets/neuronetz-gateway/{item['path']}" for item in volume["items"]}
        assert set(files.values()) == mounted


def test_an_image_can_be_named_by_its_digest(pods: dict[str, dict[str, Any]]) -> None:
    images = {pod["containers"][0]["image"] for pod in pods.values()}

    assert images == {f"registry.example.com/neuronetz-gateway@{DIGEST}"}


def test_a_mirror_of_revocations_is_shared_by_those_who_write_and_read_it(
    pods: dict[str, dict[str, Any]],
) -> None:
    having = set()
    for component, pod in pods.items():
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["volumes"]
            if "persistentVolumeClaim" in volume
        }
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        path = _environment(pod).get("GATEWAY_REVOCATION_MIRROR")
        if path is not None:
            having.add(component)
            assert claims == {"mirror": "revocations"}
            assert path.startswith(f"{mounts['mirror']}/")

    assert having == {"admin", "worker"}


def test_every_container_is_hardened(pods: dict[str, dict[str, Any]]) -> None:
    for pod in pods.values():
        own = pod["containers"][0]["securityContext"]

        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"]) == (True, False)
        assert own["capabilities"] == {"drop": ["ALL"]}


def test_an_app_has_the_time_that_its_drain_takes(pods: dict[str, dict[str, Any]]) -> None:
    app = pods["app"]
    pause = app["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]

    assert int(re.findall(r"sleep\((\d+)\)", pause)[0]) == PAUSE_S
    assert _environment(app)["GATEWAY_DRAIN_SECONDS"] == "100"
    assert app["terminationGracePeriodSeconds"] > PAUSE_S + 100 + KILL_MARGIN_S


def test_a_redis_that_is_away_takes_no_app_out_of_service(pods: dict[str, dict[str, Any]]) -> None:
    probes = pods["app"]["containers"][0]

    assert probes["readinessProbe"]["httpGet"]["path"] == "/readyz?exclude=redis"
    assert probes["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_every_process_is_behind_a_policy_and_only_the_app_is_called(rendered: list[dict[str, Any]]) -> None:
    policies = {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"]
        for each in rendered
        if each["kind"] == "NetworkPolicy"
    }

    assert set(policies) == {"app", "admin", "worker", "migrate"}
    assert [name for name, policy in policies.items() if policy["ingress"]] == ["app"]
    assert all(policy["policyTypes"] == ["Ingress", "Egress"] for policy in policies.values())


def test_apps_and_workers_are_not_all_taken_away_at_once(rendered: list[dict[str, Any]]) -> None:
    budgets = [each for each in rendered if each["kind"] == "PodDisruptionBudget"]

    assert [each["metadata"]["name"] for each in budgets] == ["gw-app", "gw-worker"]
    assert all(each["spec"]["maxUnavailable"] == 1 for each in budgets)
