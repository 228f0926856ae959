"""The components in ``deploy/kubernetes``, each in an overlay that has it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.prometheus import ALERTS
from tests.deploy.rendering import KUBERNETES, kustomize, render
from tests.deploy.test_kubernetes import VERSIONS
from worker.settings import Settings

COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
KNOWN = {
    "PodMonitor": {"jobLabel", "podMetricsEndpoints", "podTargetLabels", "selector", "namespaceSelector"},
    "PrometheusRule": {"groups"},  # and what stands below is what Prometheus itself reads
    "ScaledObject": {
        "scaleTargetRef", "triggers", "minReplicaCount", "maxReplicaCount", "pollingInterval", "fallback",
        "advanced",
    },
}  # fmt: skip
"""What may stand under `spec` where no schema is at hand: what is misspelt would be lost on its way."""
NAMESPACE = "chats"
Overlay = Callable[..., Path]


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    """Make production one's own: with these components, and a namespace of another name."""

    def made(*components: str) -> Path:
        shutil.copytree(KUBERNETES.parent, tmp_path / "deploy", dirs_exist_ok=True)
        folder = tmp_path / "deploy" / "kubernetes" / "overlays" / "production"
        for file in folder.iterdir():
            file.write_text(
                re.sub(r"(?m)(name|namespace): projection-worker$", rf"\1: {NAMESPACE}", file.read_text())
            )
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        if {"keda", "hpa"} & set(components):
            del kustomization["replicas"]
        kustomization["components"] = [f"../../components/{component}" for component in components]
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return folder

    return made


def find(things: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (thing for thing in things if thing["kind"] == kind)
    return found


def validate(thing: dict[str, Any]) -> None:
    """That an object is what its definition allows."""
    if known := KNOWN.get(thing["kind"]):
        assert thing["spec"].keys() <= known
    else:
        for version in VERSIONS:
            kubernetes_validate.validate(thing, version, strict=True)


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_object_fits_its_schema_and_is_in_the_namespace(overlay: Overlay, component: str) -> None:
    for thing in render(overlay(component)):
        validate(thing)
        assert thing["kind"] == "Namespace" or thing["metadata"]["namespace"] == NAMESPACE


def test_the_operator_scrapes_workers_and_the_policy_lets_it(overlay: Overlay) -> None:
    things = render(overlay("prometheus-operator"))
    monitor = find(things, "PodMonitor")["spec"]
    template = find(things, "Deployment")["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == "projection-worker"  # as the alerts have it
    (endpoint,) = monitor["podMetricsEndpoints"]
    (port,) = template["spec"]["containers"][0]["ports"]
    (rule,) = find(things, "NetworkPolicy")["spec"]["ingress"]
    assert endpoint["port"] == port["name"] == rule["ports"][0]["port"]
    (who,) = rule["from"]
    assert who["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}


def test_alerts_are_those_that_are_tested(overlay: Overlay) -> None:
    rule = find(render(overlay("prometheus-operator")), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text()), (
        "run the command in the head of prometheusrule.yaml"
    )


def test_the_dashboard_is_found_by_grafanas_sidecar(overlay: Overlay) -> None:
    maps = [thing for thing in render(overlay("prometheus-operator")) if thing["kind"] == "ConfigMap"]
    (dashboard,) = (thing for thing in maps if thing["metadata"].get("labels", {}).get("grafana_dashboard"))
    assert dashboard["data"].keys() == {"projection-worker.json"}


def test_keda_and_hpa_scale_alike_by_hints_up_to_as_many_as_there_is_work_for(overlay: Overlay) -> None:
    keda, hpa = render(overlay("keda")), render(overlay("hpa"))
    scaled, scaler = find(keda, "ScaledObject")["spec"], find(hpa, "HorizontalPodAutoscaler")["spec"]
    partitions = Settings.model_fields["feed_partitions"].default
    assert scaled["maxReplicaCount"] == scaler["maxReplicas"] == partitions
    assert scaled["minReplicaCount"] == scaler["minReplicas"] == 2
    assert scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == scaler["behavior"]
    (trigger,), (metric,) = scaled["triggers"], scaler["metrics"]
    assert trigger["metadata"]["threshold"] == metric["external"]["target"]["averageValue"]
    assert trigger["metadata"]["query"] == adapted(NAMESPACE)
    for things, target in ((keda, scaled["scaleTargetRef"]), (hpa, scaler["scaleTargetRef"])):
        deployment = find(things, "Deployment")
        assert deployment["metadata"]["name"] == target["name"]
        assert "replicas" not in deployment["spec"]  # else each deployment would set it back


def adapted(namespace: str) -> str:
    """What the adapter asks Prometheus for the autoscaler's metric."""
    told = yaml.safe_load((KUBERNETES / "components" / "hpa" / "prometheus-adapter.yaml").read_text())
    (rule,) = told["rules"]["external"]
    query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].split("{")[0])
    return str(query.replace("<<.LabelMatchers>>", f'namespace="{namespace}"'))


def test_keda_and_hpa_are_never_there_at_once(overlay: Overlay) -> None:
    both = kustomize(overlay("keda", "hpa"))
    assert both.returncode != 0
    assert "/spec/replicas" in both.stderr
