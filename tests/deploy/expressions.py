"""What the dashboard asks Prometheus for."""

from __future__ import annotations

import json
from pathlib import Path

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards" / "projection-worker.json"


def of_dashboard() -> list[tuple[str, str]]:
    """Every expression, with its panel and what tells it from the panel's others."""
    return [
        (f"{panel['title']}: {target['refId']} {target.get('legendFormat', '')}", target["expr"])
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel["targets"]
    ]
