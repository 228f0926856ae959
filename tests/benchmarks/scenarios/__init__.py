"""What is measured by ``python -m tests.benchmarks``, in this order."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks.bench import Scenario
from tests.benchmarks.scenarios import (
    backlog,
    big_rows,
    growth,
    last_messages,
    live,
    neighbours,
    rebuild_verify,
    transcripts,
)

SCENARIOS: Sequence[Scenario] = (
    backlog.SCENARIO,
    live.SCENARIO,
    growth.SCENARIO,
    big_rows.SCENARIO,
    rebuild_verify.SCENARIO,
    transcripts.SCENARIO,
    last_messages.SCENARIO,
    neighbours.SCENARIO,
)
