"""What may become of a stream in a pass, and the totals of all passes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Outcome(Enum):
    """Where a stream stands after a pass."""

    CAUGHT_UP = auto()
    """Nothing of the log is left to apply, as far as it reached when it was read."""
    MORE = auto()
    """A page was applied and the log goes on: take the stream again."""
    LOST = auto()
    """Another writer moved the row, or what was known of it is out of date: take the stream again."""
    BLOCKED = auto()
    """An open dead letter stops the stream: the row stands before that event."""
    REFUSED = auto()
    """PostgreSQL will not have the row; after isolation: nor any other, so the table is to blame."""
    DIVERGED = auto()
    """The log does not hold the row's position any more; the row is left as it is."""
    NEWER_VERSION = auto()
    """A newer version of the projection wrote the row, or one that would change with it: left as it is."""
    UNREADABLE = auto()
    """The key is no stream."""


@dataclass(frozen=True, slots=True)
class StreamResult:
    """``read_to`` is the last entry that was read, where that is known. ``error`` says why a row was refused.

    Of a diverged stream ``read_to`` is the position that its log no longer holds.
    """

    outcome: Outcome
    read_to: str | None = None
    error: str = ""


@dataclass(slots=True)
class Tally:
    """What a projector has done since it started. Written by the projecting task only.

    ``events_applied`` counts handler calls that were kept; ``events_redone`` those of passes whose write
    lost its comparison, so that somebody applies the events again. ``handler_failures`` counts handlers
    that raised, whether their stream stopped or the event was passed over. ``unreadable_logs`` counts passes
    over keys that are no streams, ``untyped_entries`` entries whose type is missing or not UTF-8, and
    ``mended_values`` what was replaced in payloads because PostgreSQL cannot hold it.
    """

    batches: int = 0
    events_applied: int = 0
    events_redone: int = 0
    events_rejected: int = 0
    events_skipped: int = 0
    rows_written: int = 0
    comparisons_lost: int = 0
    handler_failures: int = 0
    remarks: int = 0
    unreadable_logs: int = 0
    untyped_entries: int = 0
    mended_values: int = 0
