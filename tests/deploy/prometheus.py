"""A Prometheus of a test's own, with the alerts that are deployed."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from tests.waiting import block_until

DEPLOYED = Path(__file__).parents[2] / "deploy" / "prometheus"
CONFIGURATION = DEPLOYED / "prometheus.yaml"
ALERTS = DEPLOYED / "alerts.yaml"
_ANSWER_SECONDS = 10
_VARIABLES = {"$namespace": ".*", "$projection": ".*", "$__rate_interval": "5s"}


def filled_in(expression: str) -> str:
    """An expression of the dashboard as Grafana would ask it, with all namespaces and projections chosen."""
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


class Prometheus:
    """A server that scrapes and looks at alerts every second."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ask(self, path: str, **parameters: str) -> Any:
        """The data that its HTTP API gives."""
        url = f"http://{self._address}/api/v1/{path}?{urlencode(parameters)}"
        with urlopen(url, timeout=_ANSWER_SECONDS) as answer:
            return json.load(answer)["data"]

    def values(self, expression: str) -> list[float]:
        """What an expression is now, without what is no number, such as 0 / 0."""
        result = self.ask("query", query=expression)["result"]
        numbers = [float(sample["value"][1]) for sample in result]
        return [number for number in numbers if number == number]

    def alerts(self) -> set[str]:
        """The alerts that are pending or firing."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"]}

    def answers(self) -> bool:
        try:
            with urlopen(f"http://{self._address}/-/ready", timeout=_ANSWER_SECONDS) as answer:
                return bool(answer.status == 200)
        except (URLError, ConnectionError):
            return False


@contextmanager
def prometheus(folder: Path, targets: Sequence[str]) -> Iterator[Prometheus]:
    """Run it as it is deployed, but for where the workers are, and how often it looks."""
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(ALERTS)]
    (job,) = configuration["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": list(targets)}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{_free_port()}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            running = Prometheus(address)
            block_until(running.answers, "Prometheus to be ready", 60)
            yield running
        finally:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
