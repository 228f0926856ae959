"""What kubectl makes of a folder of ``deploy/kubernetes``."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"


def kustomize(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run kubectl, which says what is wrong with the folder if it fails."""
    command = ["kubectl", "kustomize", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def render(folder: Path) -> list[dict[str, Any]]:
    """All objects that the folder describes."""
    shown = kustomize(folder)
    assert (shown.returncode, shown.stderr) == (0, "")
    return list(yaml.safe_load_all(shown.stdout))
