"""Hints: what the feed says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.events import field, parse_stream_id

_MAX_TYPE_BYTES = 1_000


@dataclass(frozen=True, slots=True)
class Hint:
    """One entry of the feed: the stream that has news, and the type of the event that was appended.

    It says nothing but "look at that log", so losing, doubling or reordering one costs time and never
    correctness. ``id`` is its own id in the feed partition, not the event's. One that was ``skimmed`` stands
    for all hints at its stream up to that id; see `worker.skim`.
    """

    partition: int
    id: bytes
    stream_id: str
    type: str
    skimmed: bool = False


def parse_hint(partition: int, raw_id: bytes, fields: Sequence[bytes] | None) -> Hint | None:
    """Make a hint of an entry of the feed; None where it names no stream that can have a row.

    Whatever the type is, it only tells whether there may be something to do.
    """
    spelled = field(fields, b"stream") if fields else None
    stream_id = parse_stream_id(spelled) if spelled is not None else None
    if fields is None or stream_id is None:
        return None
    hint_type = (field(fields, b"type") or b"")[:_MAX_TYPE_BYTES]
    return Hint(partition, raw_id, stream_id, hint_type.decode("utf-8", "replace"))
