"""Hints: what the feed says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hint:
    """One entry of the feed: the stream that has news, and the type of the event that was appended.

    It says nothing but "look at that log", so losing, doubling or reordering one costs time and never
    correctness. ``id`` is its own id in the feed partition, not the event's.
    """

    partition: int
    id: bytes
    stream_id: str
    type: str
