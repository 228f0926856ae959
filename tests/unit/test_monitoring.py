"""What watches the worker asks for metrics that it has, and says what the README says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documented import README, cells_of_table, names_of_commands, rows_of_table, without_arguments
from worker.cli import app
from worker.metrics import METRICS
from worker.settings import Settings, variable

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
}
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "projection-worker.json").read_text())
OTHERS = {
    "up",
    "ALERTS",
    "process_start_time_seconds",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
}
LABELS = {"projection", "namespace", "instance", "job"}
OF_ALERTS = {"alertname", "alertstate", "severity", "reason"}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
SERIES = {
    metric.full_name + suffix: metric for metric in METRICS for suffix in SUFFIXES.get(metric.kind, ("",))
}


def scaling(component: str, file: str) -> Any:
    return yaml.safe_load((DEPLOY / "kubernetes" / "components" / component / file).read_text())


def expressions() -> Iterator[tuple[str, str, str]]:
    """Every expression, with where it stands and what is shown of its labels."""
    for name, alert in ALERTS.items():
        yield name, alert["expr"], " ".join(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            shown = " ".join(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
            yield panel["title"], target["expr"], shown
    for variable_ in DASHBOARD["templating"]["list"][1:]:
        yield variable_["name"], re.sub(r"^label_values\((.*), \w+\)$", r"\1", variable_["query"]), ""
    yield "keda", scaling("keda", "scaledobject.yaml")["spec"]["triggers"][0]["metadata"]["query"], ""
    (metric,) = scaling("hpa", "autoscaler.yaml")["spec"]["metrics"]
    yield "hpa", metric["external"]["metric"]["name"], ""
    (rule,) = scaling("hpa", "prometheus-adapter.yaml")["rules"]["external"]
    yield "prometheus-adapter", rule["seriesQuery"], ""


def labels_in(expression: str) -> set[str]:
    matched = re.findall(r"[{,]\s*(\w+)\s*(?:=~|!=|!~|=)", expression)
    grouped = re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", expression)
    return {*matched, *(label.strip() for labels in grouped for label in labels.split(","))}


def test_every_metric_that_is_asked_for_is_there_with_its_labels() -> None:
    for where, expression, shown in expressions():
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
        names = set(re.findall(r"\bprojection_worker_\w+", bare))
        others = set(re.findall(r"\b(?:up|ALERTS|process_\w+)\b", bare))
        assert names or others, where
        assert names <= SERIES.keys(), where
        assert others <= OTHERS, where
        known = LABELS | {SERIES[name].label for name in names} | (OF_ALERTS if "ALERTS" in others else set())
        known |= {"le"} if any(name.endswith("_bucket") for name in names) else set()
        assert labels_in(bare) | set(shown.split()) <= known, where


def test_counters_are_looked_at_by_their_growth_and_nothing_else_is() -> None:
    for where, expression, _ in expressions():
        growing = set(re.findall(r"\b(?:rate|increase)\(\s*(projection_worker_\w+)", expression))
        named = set(re.findall(r"\bprojection_worker_\w+", expression))
        assert growing == {name for name in named if SERIES[name].kind != "gauge"}, where


def test_every_alert_is_documented_with_its_severity() -> None:
    assert rows_of_table("alert") == {name: alert["labels"]["severity"] for name, alert in ALERTS.items()}
    assert all(means and do for _, _, means, do in cells_of_table("alert"))


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_what_to_do_with_commands_that_there_are(name: str) -> None:
    annotations = ALERTS[name]["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook"}
    assert ALERTS[name]["labels"]["severity"] in ("critical", "warning")
    commands = {
        without_arguments(said) for said in re.findall(r"`(projection-worker [^`]+)`", str(annotations))
    }
    documented = {without_arguments(command) for command in rows_of_table("command")}
    assert commands
    assert commands <= documented
    assert documented >= names_of_commands(app)
    named = set(re.findall(r"WORKER_\w+", annotations["description"]))
    assert named <= {variable(setting) for setting in Settings.model_fields}
    file, _, anchor = annotations["runbook"].partition("#")
    assert file == "README.md"
    assert anchor in {anchor_of(heading) for heading in re.findall(r"(?m)^#{2,3} (.+)$", README)}


def anchor_of(heading: str) -> str:
    """How a heading is linked to."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_panels_are_told_apart_and_do_not_lie_upon_each_other() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels)
