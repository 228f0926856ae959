"""A dry run: what a rebuild would change, counted, with an example of each kind. Nothing here writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from worker.campaign import RefusedStream
from worker.difference import excerpts
from worker.judgement import Refusal
from worker.preview import Preview

T = TypeVar("T")

_EXCERPT_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Example:
    """One row in which a column would change; both values shortened."""

    stream_id: str
    old: str
    new: str


@dataclass(slots=True)
class DryRun:
    """What was found so far.

    Counts are of streams, but ``columns``, which counts rows in which each would change. ``versions`` counts
    rows by the version that they are of now. ``total_streams`` is how many there are to look at. ``refusals``
    counts streams that would not be rebuilt; the first ``limit`` of them are in ``told``. ``unknown`` are
    streams that were named and do not exist. ``estimate_seconds`` is the least that a rebuild would take,
    None where nothing was looked at.
    """

    limit: int
    streams: int = 0
    total_streams: int = 0
    changed: int = 0
    made: int = 0
    unchanged: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    examples: dict[str, Example] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)
    refusals: dict[Refusal, int] = field(default_factory=dict)
    told: list[RefusedStream] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    estimate_seconds: float | None = None

    @property
    def fine(self) -> bool:
        """Whether every stream was looked at, and would be rebuilt."""
        return not (self.refusals or self.unknown) and self.streams == self.total_streams

    def note(self, preview: Preview) -> None:
        """Take one stream in."""
        self.streams += 1
        if preview.version is not None:
            _count(self.versions, preview.version)
        if preview.verdict is not None:
            _count(self.refusals, preview.verdict.refusal)
            if len(self.told) < self.limit:
                self.told.append(
                    RefusedStream(preview.stream_id, preview.verdict.refusal, preview.verdict.detail)
                )
        elif preview.makes_row:
            self.made += 1
        elif preview.differences:
            self.changed += 1
        else:
            self.unchanged += 1
        for difference in preview.differences:
            _count(self.columns, difference.column)
            if difference.column not in self.examples:
                new, old = excerpts(difference, _EXCERPT_LENGTH)
                self.examples[difference.column] = Example(preview.stream_id, old, new)

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def _count(counts: dict[T, int], thing: T) -> None:
    counts[thing] = counts.get(thing, 0) + 1
