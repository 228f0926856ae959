"""What is measured by ``python -m tests.benchmarks``, in this order."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks.bench import Scenario
from tests.benchmarks.scenarios import backlog, growth

SCENARIOS: Sequence[Scenario] = (backlog.SCENARIO, growth.SCENARIO)
