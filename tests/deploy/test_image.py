"""What the image is built from, and the containers of ``deploy/compose.yaml``."""

from __future__ import annotations

import re
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
