"""The configuration and the alerts in ``deploy/prometheus``, as Prometheus's own tools see them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

from tests.deploy.expressions import of_dashboard
from tests.deploy.prometheus import ALERTS, CONFIGURATION, filled_in

RULES = yaml.safe_load(ALERTS.read_text())
NAMES = [rule["alert"] for rule in RULES["groups"][0]["rules"]]
SCENARIOS = Path(__file__).parent / "alerts_test.yaml"


def promtool(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def test_promtool_finds_nothing_wrong_with_configuration_and_alerts() -> None:
    for what, file in (("config", CONFIGURATION), ("rules", ALERTS)):
        checked = promtool("check", what, str(file))
        assert checked.returncode == 0, checked.stderr


def test_alerts_fire_when_they_should_and_are_silent_when_all_is_well() -> None:
    tested = promtool("test", "rules", str(SCENARIOS))
    assert tested.returncode == 0, tested.stderr + tested.stdout


def test_every_alert_fires_in_some_scenario_and_none_where_all_is_well() -> None:
    well, *others = yaml.safe_load(SCENARIOS.read_text())["tests"]
    assert well["promql_expr_test"][0]["exp_samples"] == []
    assert set(re.findall(r'alertname="(\w+)"', str(others))) == set(NAMES)


def test_an_alert_that_came_late_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(ALERTS.read_text().replace("> 30\n", "> 90\n"))
    altered = re.sub(r"rule_files: .*", "rule_files: [alerts.yaml]", SCENARIOS.read_text())
    (tmp_path / "scenarios.yaml").write_text(altered)
    tested = promtool("test", "rules", str(tmp_path / "scenarios.yaml"))
    assert tested.returncode != 0
    assert "ProjectionWorkerLag" in tested.stdout + tested.stderr


def test_promtool_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    recorded = [
        {"record": f"panel:{number}", "expr": filled_in(expression)}
        for number, (_, expression) in enumerate(of_dashboard())
    ]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    checked = promtool("check", "rules", str(tmp_path / "panels.yaml"))
    assert checked.returncode == 0, checked.stderr
    assert f"{len(recorded)} rules found" in checked.stdout
