"""Whether the fold of its whole log may take a row's place, and the write by which it does. No I/O.

A fold of a log that has lost something would be another row, and nobody could tell what is missing. So it
is refused, unless an operator accepts the loss, or took the end of the log away on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from worker.events import EventId, is_event_id
from worker.extent import Extent
from worker.letters import letters_of
from worker.projection import Projection
from worker.replay import FoldedLog
from worker.table import RowHead, RowWrite, Stamp, StoredRow

_LAST_OF_ALL = str(EventId((1 << 64) - 1, (1 << 64) - 1))
_FORCE = "`rebuild --accept-loss` takes the log as it is"


class Refusal(StrEnum):
    """Why a row was not folded anew. The first three are forced by accepting the loss."""

    TRIMMED = "trimmed"
    """The log begins later than when the row was made."""
    GONE = "gone"
    """There is a row, and no log."""
    DIVERGED = "diverged"
    """The log does not hold the row's position."""
    UNREADABLE = "unreadable"
    """The key is no stream, or changes all the time."""
    HANDLER_FAILED = "handler_failed"
    """A handler raises at an event that the row has passed already."""
    ROW_REFUSED = "row_refused"
    """PostgreSQL will not have the row."""
    NEWER_VERSION = "newer_version"
    """A newer version of the projection wrote the row, or one that would change with it."""
    LEFT_OUT = "left_out"
    """The projection's ``streams`` do not match it."""
    BUSY = "busy"
    """Others kept the row locked, or moved it all the time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why not, with a sentence for operators on what happened and what to do."""

    refusal: Refusal
    detail: str


def judge(
    version: int,
    head: RowHead | None,
    folded: FoldedLog,
    extent: Extent,
    *,
    accept_loss: bool,
    deliberate: bool,
) -> Verdict | None:
    """Whether ``folded`` may replace a row; None if it may.

    ``extent`` is the log's after it was folded; it was asked whether it holds the row's position. With
    ``deliberate`` an operator named the stream, so that a log whose last entries were deleted on purpose is
    no loss. With ``accept_loss`` no loss is.
    """
    if folded.refusal or folded.torn or extent.is_no_stream:
        torn = "its entries are removed while they are read"
        why = folded.refusal or (torn if folded.torn else "its key holds something else")
        return Verdict(Refusal.UNREADABLE, f"The log cannot be read: {why}.")
    position = head.stamp.last_event_id if head else None
    if head is None or position is None:
        return None
    if head.stamp.version > version:
        return Verdict(
            Refusal.NEWER_VERSION,
            f"The row is of version {head.stamp.version}, newer than {version}; use a worker of that.",
        )
    lost = None if accept_loss else _loss(head, position, folded, extent, deliberate=deliberate)
    return lost or _failure(position, folded)


def _loss(
    head: RowHead, position: str, folded: FoldedLog, extent: Extent, *, deliberate: bool
) -> Verdict | None:
    if not extent.exists:
        return Verdict(
            Refusal.GONE,
            f"The log is gone; `rebuild --prune` removes such rows, and {_FORCE}: the row is emptied.",
        )
    if _began_later(head, folded.first_event_id) and not extent.whole:
        return Verdict(
            Refusal.TRIMMED,
            f"The log began at {head.first_event_id} and now begins at {folded.first_event_id}; {_FORCE}.",
        )
    if not is_event_id(position):
        return Verdict(Refusal.DIVERGED, f"The row's position {position!r} is no event id; {_FORCE}.")
    if extent.holds:
        return None
    if not _cut_on_purpose(EventId.parse(position), extent):
        return Verdict(Refusal.DIVERGED, f"The log does not hold the row's position {position}; {_FORCE}.")
    if deliberate:
        return None
    return Verdict(
        Refusal.DIVERGED,
        f"The row's position {position} was deleted from the log; if that was on purpose, "
        "`rebuild --stream` takes the row back.",
    )


def is_trimmed(head: RowHead, extent: Extent) -> bool:
    """Whether the log has lost its beginning since the row was made, which so cannot be folded anew."""
    return _began_later(head, extent.first_id) and not extent.whole


def _began_later(head: RowHead, now: str | None) -> bool:
    """An empty log is not told from one whose entries were all deleted here."""
    then = head.first_event_id
    return (
        then is not None
        and is_event_id(then)
        and now is not None
        and EventId.parse(now) > EventId.parse(then)
    )


def _cut_on_purpose(position: EventId, extent: Extent) -> bool:
    """Whether the log has held the position, and it was deleted from its end, as an undo does.

    A log that lost its tail in a crash has never given the position out, as far as it knows. It may have
    given out higher ids since; Redis 7 still tells that it has not deleted any such entry.
    """
    if extent.newest_id is None or EventId.parse(extent.newest_id) < position:
        return False
    if extent.newest_deleted is not None:
        return EventId.parse(extent.newest_deleted) >= position
    return extent.last_id is None or EventId.parse(extent.last_id) < position


def _failure(position: str, folded: FoldedLog) -> Verdict | None:
    """A fold that ends at an event whose handler raises must not take the row back."""
    failure = folded.failure
    if failure is None or not is_event_id(position):
        return None
    if EventId.parse(position) < failure.event_id:
        return None
    return Verdict(
        Refusal.HANDLER_FAILED,
        f"The handler of {failure.type} raises {type(failure.error).__name__} at event {failure.event_id}, "
        "which the row has passed; mend the handler, or skip the event.",
    )


def replacement(projection: Projection, stream_id: str, loaded: Stamp | None, folded: FoldedLog) -> RowWrite:
    """The write that puts a log's fold in the place of a row, whatever the row holds."""
    stamp = Stamp(folded.last_event_id, loaded.generation + 1 if loaded else 0, projection.version)
    first_event_id = folded.first_event_id if folded.last_event_id else None
    return RowWrite(
        stream_id=stream_id,
        loaded=loaded,
        row=StoredRow(stamp, first_event_id, folded.state),
        changed=frozenset(projection.columns),
        updated_at=folded.updated_at,
        facts=folded.facts,
        replace=True,
        passed=letters_of(stream_id, folded.rejections),
        settles=folded.last_event_id if folded.failure else _LAST_OF_ALL,
        children=folded.children,
    )
