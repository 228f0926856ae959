"""What came of a run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from tests.chaos.stalls import Stall


@dataclass(slots=True)
class Report:
    """The figures of a run, and everything that was wrong."""

    seed: int
    seconds: float
    events: int = 0
    streams: int = 0
    replicas_started: int = 0
    log_lines: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    longest_stall: Stall = field(default_factory=Stall)
    settled_after_seconds: float | None = None
    """From the end of the last fault and event until the table was found right; reckoning counts, too."""
    failures: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        stall = self.longest_stall
        settled = self.settled_after_seconds
        return "\n".join(
            [
                f"chaos for {self.seconds:g} s, seed {self.seed}",
                f"events: {self.events} in {self.streams} streams",
                f"faults: {sum(self.faults.values())} of {len(self.faults)} kinds: {kinds}",
                f"longest stall: {stall.seconds:g} s, during {', '.join(stall.faults) or 'no fault'}",
                f"replicas started: {self.replicas_started}, which logged {self.log_lines} lines",
                f"table found right: {f'{settled:.1f} s after the end' if settled is not None else 'never'}",
                *(f"WRONG: {failure}" for failure in self.failures or ()),
                "all is right" if not self.failures else f"seed {self.seed}: {len(self.failures)} failures",
            ]
        )
