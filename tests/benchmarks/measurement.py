"""What is measured: runs, figures, and the targets that they are held against."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Name(NamedTuple):
    """What a figure is called: what is done, and by whom."""

    scenario: str
    subject: str


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement: its value, and the CPU seconds that each process took in so many seconds."""

    value: float
    cpu: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Figure:
    """The runs of one subject in one scenario. ``note`` says what is particular about them."""

    scenario: str
    subject: str
    unit: str
    runs: Sequence[Run]
    note: str = ""

    @property
    def name(self) -> Name:
        return Name(self.scenario, self.subject)

    @property
    def median(self) -> float:
        return statistics.median(run.value for run in self.runs)

    @property
    def least(self) -> float:
        return min(run.value for run in self.runs)

    @property
    def most(self) -> float:
        return max(run.value for run in self.runs)

    @property
    def cores(self) -> Mapping[str, float]:
        """How much of a core each process took, by its median."""
        timed = [run for run in self.runs if run.seconds]
        processes = dict.fromkeys(process for run in timed for process in run.cpu)
        return {
            process: statistics.median(run.cpu.get(process, 0.0) / run.seconds for run in timed)
            for process in processes
        }

    def as_json(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario,
            "subject": self.subject,
            "unit": self.unit,
            "median": self.median,
            "least": self.least,
            "most": self.most,
            "cores": dict(self.cores),
            "runs": [
                {"value": run.value, "seconds": run.seconds, "cpu_seconds": dict(run.cpu)}
                for run in self.runs
            ],
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must be, or its ratio to another of the same run: one bound of the two."""

    figure: Name
    than: Name | None = None
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"The target for {self.figure} needs one bound: at_least or at_most.")

    def verdict(self, figures: Iterable[Figure]) -> Verdict | None:
        """Whether the medians are as they must be; None where they were not measured."""
        medians = {figure.name: figure.median for figure in figures}
        if self.figure not in medians or (self.than is not None and self.than not in medians):
            return None
        found = medians[self.figure] / (medians[self.than] if self.than is not None else 1.0)
        holds = found >= self.at_least if self.at_least is not None else found <= (self.at_most or 0.0)
        return Verdict(self, found, holds)

    def __str__(self) -> str:
        bound = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        if self.than is None:
            return f"{self.figure.scenario}: {self.figure.subject}, {bound}"
        scenario = "" if self.than.scenario == self.figure.scenario else f"{self.than.scenario}: "
        than = f"{scenario}{self.than.subject}"
        return f"{self.figure.scenario}: {self.figure.subject}, {bound} times {than}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found for a target, and whether that is enough."""

    target: Target
    found: float
    holds: bool

    def as_json(self) -> dict[str, Any]:
        return {"target": str(self.target), "found": self.found, "holds": self.holds}


def number(value: float) -> str:
    """As people read it: three digits, or all there are before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
