"""The units in ``deploy/systemd``, as systemd itself sees them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
PROGRAM = "/opt/projection-worker/bin/projection-worker"
WORST_EXPOSURE = 15
"""In tenths, as systemd-analyze rates a unit: from 0, nothing is exposed, to 100."""


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A copy of the units that start a program which is there."""
    for unit in UNITS.iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace(PROGRAM, shutil.which("true") or ""))
    return tmp_path


def analyze(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], cwd=folder, capture_output=True, text=True, timeout=30, check=False
    )


def hardening(service: str) -> list[str]:
    """The lines that take rights away."""
    return (UNITS / service).read_text().split("\nDynamicUser=yes\n")[1].split("\n\n")[0].strip().split("\n")


def test_systemd_finds_nothing_wrong(units: Path) -> None:
    names = [f"./{unit.name.replace('@', '@1')}" for unit in UNITS.iterdir()]
    verified = analyze("verify", *names, folder=units)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_systemd_would_find_a_mistake(units: Path) -> None:
    with (units / "projection-worker.service").open("a") as unit:
        unit.write("Mistake=yes\n")
    assert "Mistake" in analyze("verify", "./projection-worker.service", folder=units).stderr


@pytest.mark.parametrize("service", SERVICES)
def test_little_is_exposed(units: Path, service: str) -> None:
    rated = analyze("security", "--offline=true", f"--threshold={WORST_EXPOSURE}", service, folder=units)
    assert rated.returncode == 0, rated.stdout + rated.stderr
    assert "Overall exposure level" in rated.stdout


def test_all_services_are_hardened_alike() -> None:
    assert len(SERVICES) == 3
    assert len({tuple(hardening(service)) for service in SERVICES}) == 1


def test_a_replica_runs_as_a_single_worker_does() -> None:
    single = (UNITS / "projection-worker.service").read_text().splitlines()
    replica = (UNITS / "projection-worker@.service").read_text().splitlines()
    only = {line.split("=")[0] for line in set(single) ^ set(replica) if not line.startswith("#")}
    assert only == {"Description", "Environment"}
