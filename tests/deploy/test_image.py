"""What the image is built from, and the containers of ``deploy/compose.yaml``."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def pinned(file: str) -> dict[str, str]:
    """The versions in a file of requirements, each of which comes with hashes."""
    entries = re.split(r"\n(?=[a-z])", re.sub(r"(?m)^ *#.*\n", "", (DEPLOY / file).read_text()))
    assert all("--hash=sha256:" in entry for entry in entries)
    return dict(entry.split()[0].split("==") for entry in entries)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize(
    ("file", "needed"),
    [
        ("requirements.txt", project()["project"]["dependencies"]),
        ("requirements-build.txt", project()["build-system"]["requires"]),
    ],
)
def test_the_image_gets_exactly_known_versions_of_all_that_it_needs(file: str, needed: list[str]) -> None:
    versions = pinned(file)
    for requirement in map(Requirement, needed):
        remedy = f"{requirement}: run the command in the head of deploy/{file}"
        assert requirement.specifier.contains(versions.get(requirement.name, "0")), remedy


def test_the_image_is_nobodys_and_hears_signals() -> None:
    last = (DEPLOY / "Dockerfile").read_text().split("\nFROM ")[-1]
    assert "\nUSER 65532:65532\n" in last
    assert '\nENTRYPOINT ["projection-worker"]\n' in last  # not a shell, which would keep signals to itself


def test_the_redis_of_the_composition_keeps_its_logs() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    command = " ".join(services["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert services["worker"]["deploy"]["replicas"] == 2
    assert "ports" not in services["redis"] | services["postgres"]  # nobody else reaches them


def test_the_composition_is_one_for_docker() -> None:
    check = ["check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")]
    checked = subprocess.run([sys.executable, "-m", *check], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_the_composition_is_watched_from_this_host_alone() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    job = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"][0]
    (found,) = job["dns_sd_configs"]
    assert services.keys() >= set(found["names"])
    port = services["worker"]["environment"]["WORKER_HTTP_ADDRESS"].rpartition(":")[2]
    assert (found["type"], str(found["port"])) == ("A", port)
    for name in ("prometheus", "grafana"):
        service = services[name]
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        assert all(published.startswith("127.0.0.1:") for published in service["ports"])
        mounts = [volume.split(":") for volume in service["volumes"] if volume.startswith(".")]
        assert all((DEPLOY / folder).is_dir() and mode == "ro" for folder, _, mode in mounts)
        assert service["read_only"] is True
        assert service["healthcheck"]["test"]


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    grafana = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["grafana"]
    folders = {volume.split(":")[1]: DEPLOY / volume.split(":")[0] for volume in grafana["volumes"]}
    provisioning = folders["/etc/grafana/provisioning"]
    told = yaml.safe_load((provisioning / "dashboards" / "projection-worker.yaml").read_text())
    path = told["providers"][0]["options"]["path"]
    assert [file.name for file in folders[path].iterdir()] == ["projection-worker.json"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{path}/projection-worker.json"
    sources = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())
    assert sources["datasources"][0]["url"] == "http://prometheus:9090"
