"""The worker in memory: a table, replicas with caches, and logs that grow. No clock, no servers.

It does what the worker does with the same parts of a log and the same comparison of rows, so that handlers
meet what they meet in production: batches that end anywhere, replicas that start with an empty cache or write
late, and rebuilds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from worker.events import AnyEvent
from worker.projection import Projection
from worker.testing.kept import Kept, nothing_kept


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """What the table holds of a stream: the fold of the first ``events`` of its log."""

    kept: Kept
    events: int


@dataclass(slots=True)
class MemoryTable:
    """Rows by stream, and what was done to each in words."""

    projection: Projection
    rows: dict[str, MemoryRow] = field(default_factory=dict)
    history: dict[str, list[str]] = field(default_factory=dict)

    def write(self, stream_id: str, loaded: MemoryRow | None, row: MemoryRow, who: str) -> bool:
        """Write a row if it still is the one that was loaded; whether it was."""
        if self.rows.get(stream_id) is not loaded:
            return False
        self.rows[stream_id] = row
        first = loaded.events + 1 if loaded and not who.startswith("rebuild") else 1
        self.history.setdefault(stream_id, []).append(f"{who}: events {first} to {row.events}")
        return True

    def kept(self, stream_id: str) -> Kept:
        """The row and child rows of a stream; those of a new one where there are none."""
        row = self.rows.get(stream_id)
        return row.kept if row else nothing_kept(self.projection)


@dataclass(slots=True)
class MemoryReplica:
    """One replica: it goes on from what it remembers, and forgets that when its write comes too late."""

    name: str
    table: MemoryTable
    cache: dict[str, MemoryRow] = field(default_factory=dict)

    def project(self, stream_id: str, log: Sequence[AnyEvent], most: int) -> bool:
        """Apply at most so many events of a log; whether the row is then what this replica made it."""
        known = self.cache.pop(stream_id, None) or self.table.rows.get(stream_id)
        begun = known or MemoryRow(nothing_kept(self.table.projection), 0)
        events = log[begun.events : begun.events + most]
        row = _folded_on(self.table.projection, begun, events)
        if row.events > begun.events and not self.table.write(stream_id, known, row, self.name):
            return False
        if row.events:
            self.cache[stream_id] = row
        return True

    def restart(self) -> None:
        """Die and come again."""
        self.cache.clear()


def rebuild(table: MemoryTable, stream_id: str, log: Sequence[AnyEvent], page: int) -> None:
    """Fold a log from its start, page by page, and put that in the place of its row."""
    before = table.rows.get(stream_id)
    if before is None:
        return
    row = MemoryRow(nothing_kept(table.projection), 0)
    while events := log[row.events : min(row.events + page, before.events)]:
        folded = _folded_on(table.projection, row, events)
        if folded.events == row.events:
            break
        row = folded
    table.write(stream_id, before, row, "rebuild")


def _folded_on(projection: Projection, row: MemoryRow, events: Sequence[AnyEvent]) -> MemoryRow:
    """The row after these events, or after those before one whose handler fails."""
    if not events:
        return row
    folded = projection.fold(row.kept.state, events)
    if folded.last is None:
        return row
    applied = sum(event.id <= folded.last for event in events)
    return MemoryRow(row.kept.followed_by(folded), row.events + applied)
