"""What a look at one stream finds: is its row what its log says? Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from worker.child_statements import StoredChildRows
from worker.difference import Columns, Difference, child_differences, differences
from worker.extent import Extent
from worker.judgement import Refusal, judge
from worker.letters import NOTHING_TO_HEED, Heeded, stops
from worker.projection import Projection
from worker.replay import FoldedLog
from worker.rule import StoredFacts
from worker.table import RowHead, Stamp


class Obstacle(StrEnum):
    """Why a stream could not be compared, or, for BLOCKED, why its row goes no further.

    The first six are refusals of a rebuild, too; see `worker.judgement.Refusal`.
    """

    TRIMMED = Refusal.TRIMMED.value
    GONE = Refusal.GONE.value
    DIVERGED = Refusal.DIVERGED.value
    UNREADABLE = Refusal.UNREADABLE.value
    HANDLER_FAILED = Refusal.HANDLER_FAILED.value
    NEWER_VERSION = Refusal.NEWER_VERSION.value
    OLDER_VERSION = "older_version"
    """An older version of the projection wrote the row, which waits for its rebuild."""
    LEFT_OUT = "left_out"
    """The projection's ``streams`` do not match it; the row that it may have is from before that."""
    BLOCKED = "blocked"
    """The stream stands before a dead letter. Its row is compared all the same, as far as it got."""
    BUSY = "busy"
    """Row or log were replaced again and again while they were looked at."""
    NOTHING = "nothing"
    """There is neither a row with a position nor an event that would make one."""


WRONG = frozenset({Obstacle.GONE, Obstacle.DIVERGED, Obstacle.UNREADABLE, Obstacle.HANDLER_FAILED})
"""Obstacles that say that something is wrong. The others are told of, no more."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one stream.

    ``missing`` is the first event of a log that makes a row where there is none. ``detail`` is a sentence on
    the obstacle. ``stamp`` is what the row was recognised by, None where there was none.
    """

    stream_id: str
    differences: tuple[Difference, ...] = ()
    missing: str | None = None
    obstacle: Obstacle | None = None
    detail: str = ""
    stamp: Stamp | None = None

    @property
    def compared(self) -> bool:
        """Whether there was a row, and it was compared."""
        return self.missing is None and self.stamp is not None and self.obstacle in (None, Obstacle.BLOCKED)

    @property
    def drifted(self) -> bool:
        """Whether the table is wrong: a rebuild of the stream mends it."""
        return bool(self.differences) or self.missing is not None

    @property
    def wrong(self) -> bool:
        """Whether something is wrong, be it only that nobody can tell whether the row is right."""
        return self.drifted or self.obstacle in WRONG


def head_of(row: Columns) -> RowHead:
    """What the worker itself keeps in a row."""
    return RowHead(Stamp(row["last_event_id"], row["generation"], row["version"]), row["first_event_id"])


def without_row(stream_id: str, heeded: Heeded | None, running: int, first_event: str | None) -> Finding:
    """What is to be said of a stream that has no row, or one without a position.

    ``first_event`` is the first that makes a row, None where the log holds no such event.
    """
    if first_event is None:
        return Finding(stream_id, obstacle=Obstacle.NOTHING, detail="Neither a row nor an event for one.")
    if stopped := _stopped(heeded or NOTHING_TO_HEED, None, running):
        return Finding(stream_id, obstacle=Obstacle.BLOCKED, detail=stopped)
    return Finding(stream_id, missing=first_event)


def of_other_version(stream_id: str, row: Columns, running: int) -> Finding | None:
    """What is to be said of a row that another version wrote; None for all others.

    No version below 1 ever writes a row with a position: that is a wrong value like any other.
    """
    stamp = head_of(row).stamp
    if stamp.version < 1 or stamp.version == running:
        return None
    newer = stamp.version > running
    return Finding(
        stream_id,
        obstacle=Obstacle.NEWER_VERSION if newer else Obstacle.OLDER_VERSION,
        detail=f"The row is of version {stamp.version}, {'newer' if newer else 'older'} than {running}.",
        stamp=stamp,
    )


def examine(
    projection: Projection,
    stream_id: str,
    row: Columns,
    facts: StoredFacts | None,
    children: StoredChildRows,
    heeded: Heeded | None,
    log: FoldedLog,
    extent: Extent,
) -> Finding:
    """Compare a row with its log, folded up to the row's position.

    ``extent`` is the log's after it was folded; it was asked whether it holds the position.
    """
    head = head_of(row)
    if log.torn:
        return Finding(stream_id, obstacle=Obstacle.BUSY, stamp=head.stamp)
    verdict = judge(projection.version, head, log, extent, accept_loss=False, deliberate=False)
    # Of a log that nothing was ever removed from, and that holds the position, only the row can be wrong.
    if verdict and not (verdict.refusal is Refusal.TRIMMED and extent.whole and extent.holds):
        return Finding(stream_id, (), None, Obstacle(verdict.refusal.value), verdict.detail, head.stamp)
    stopped = _stopped(heeded or NOTHING_TO_HEED, head.stamp, projection.version)
    return Finding(
        stream_id,
        differences=tuple(compare_row(projection, stream_id, row, facts, children, log)),
        obstacle=Obstacle.BLOCKED if stopped else None,
        detail=stopped,
        stamp=head.stamp,
    )


def compare_row(
    projection: Projection,
    stream_id: str,
    row: Columns,
    facts: StoredFacts | None,
    children: StoredChildRows,
    log: FoldedLog,
) -> list[Difference]:
    """The columns, child rows, and facts that the rule keeps, in which a row differs from a log's fold."""
    expected = {
        **dict(zip(projection.columns, log.state, strict=True)),
        "first_event_id": log.first_event_id,
        "last_event_id": log.last_event_id,
    }
    if log.updated_at is not None:  # Events whose time cannot be told leave it as it was.
        expected["updated_at"] = log.updated_at
    if row["version"] < 1:
        expected["version"] = projection.version
    if row["generation"] < 0:
        expected["generation"] = 0
    of_children = differences_of_children(projection, stream_id, log, children)
    if projection.rule is None or facts is None:
        return [*differences(stream_id, expected, row), *of_children]
    expected |= {**facts.visible, **projection.rule.describe(log.facts)}
    return [*differences(stream_id, expected, {**row, **facts.facts}), *of_children]


def differences_of_children(
    projection: Projection, stream_id: str, log: FoldedLog, stored: StoredChildRows
) -> list[Difference]:
    """The child rows in which a stream differs from its log's fold."""
    found: list[Difference] = []
    for name in projection.children:
        expected = log.children[name].rows if name in log.children else {}
        found += child_differences(stream_id, name, expected, stored.get(name, {}))
    return found


def _stopped(heeded: Heeded, stamp: Stamp | None, running: int) -> str:
    """Before which event a dead letter stops the stream; empty if none does."""
    letter = heeded.open
    if letter is None or not stops(
        letter.event_id,
        letter.version,
        running=running,
        position=stamp.last_event_id if stamp else None,
        row_version=stamp.version if stamp else 0,
    ):
        return ""
    return f"The stream stands before event {letter.event_id}; `dead-letters show` tells why."
