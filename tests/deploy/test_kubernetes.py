"""The overlays in ``deploy/kubernetes``, as kubectl renders them and a cluster would take them."""

from __future__ import annotations

from functools import cache
from typing import Any

import kubernetes_validate
import pytest

from tests.deploy.rendering import KUBERNETES, render
from worker.settings import URL_FILES, Settings

OVERLAYS = KUBERNETES / "overlays"
NAMES = sorted(path.name for path in OVERLAYS.iterdir())
KINDS = {
    "Namespace", "ServiceAccount", "ConfigMap", "Deployment", "Job", "CronJob",
    "PodDisruptionBudget", "NetworkPolicy",
}  # fmt: skip
VERSIONS = ["1.29", "1.37"]

overlays = pytest.mark.parametrize("overlay", NAMES)


@cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    """All objects of an overlay."""
    return render(OVERLAYS / overlay)


def pods(overlay: str) -> dict[str, dict[str, Any]]:
    """The pod that each workload would start, by its component."""
    found = {}
    for thing in rendered(overlay):
        spec = thing.get("spec", {})
        if template := spec.get("jobTemplate", {}).get("spec", spec).get("template"):
            found[template["metadata"]["labels"]["app.kubernetes.io/component"]] = template
    return found


def only(overlay: str, kind: str) -> dict[str, Any]:
    (found,) = (thing for thing in rendered(overlay) if thing["kind"] == kind)
    return found


@overlays
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_its_schema(overlay: str, version: str) -> None:
    assert {thing["kind"] for thing in rendered(overlay)} - {"Secret"} == KINDS
    for thing in rendered(overlay):
        kubernetes_validate.validate(thing, version, strict=True)


def test_a_mistake_would_be_found() -> None:
    mistaken = {**only(NAMES[0], "Deployment"), "spce": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(mistaken, VERSIONS[0], strict=True)


@overlays
def test_every_pod_is_restricted(overlay: str) -> None:
    labels = only(overlay, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pods(overlay).keys() == {"worker", "migrate", "verify", "rebuild"}
    for template in pods(overlay).values():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


@overlays
def test_urls_are_files_and_the_owners_is_for_the_migration_alone(overlay: str) -> None:
    for component, template in pods(overlay).items():
        (container,) = template["spec"]["containers"]
        variables = {entry["name"]: entry["value"] for entry in container["env"]}
        files = variables.keys() & URL_FILES.keys()
        assert files == ({"DATABASE_URL_FILE"} if component == "migrate" else URL_FILES.keys())
        assert not variables.keys() & set(URL_FILES.values())
        (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "urls")
        assert all(variables[name].startswith(mount["mountPath"] + "/") for name in files)
        (volume,) = (volume for volume in template["spec"]["volumes"] if volume["name"] == "urls")
        assert volume["secret"]["secretName"].startswith("projection-worker-owner") == (
            component == "migrate"
        )


@overlays
def test_a_worker_has_the_time_to_stop_and_is_asked_where_it_answers(overlay: str) -> None:
    spec = pods(overlay)["worker"]["spec"]
    (container,) = spec["containers"]
    assert spec["terminationGracePeriodSeconds"] > Settings.model_fields["shutdown_seconds"].default
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    (port,) = container["ports"]
    assert variables["WORKER_HTTP_ADDRESS"] == f"0.0.0.0:{port['containerPort']}"
    asked = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: get["path"] for name, get in asked.items()} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    assert all(get["port"] == port["name"] for get in asked.values())


@overlays
def test_policies_and_budgets_are_about_our_pods(overlay: str) -> None:
    worker = pods(overlay)["worker"]["metadata"]["labels"].items()
    budget = only(overlay, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items()
    assert budget <= worker
    policy = only(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items()
    assert all(policy <= template["metadata"]["labels"].items() for template in pods(overlay).values())


def test_a_rebuild_waits_to_be_told() -> None:
    suspended = {
        thing["metadata"]["name"]: thing["spec"].get("suspend", False)
        for thing in rendered(NAMES[0])
        if thing["kind"] == "CronJob"
    }
    assert suspended == {"projection-worker-rebuild": True, "projection-worker-verify": False}
