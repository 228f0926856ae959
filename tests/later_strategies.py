"""The strategies projection in version 2, for workers in processes of their own (WORKER_PROJECTIONS)."""

from __future__ import annotations

from tests.versions import of_version

strategies = of_version(2)
