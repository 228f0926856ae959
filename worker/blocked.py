"""Streams whose next event a handler refuses, as one replica remembers them."""

from __future__ import annotations

import time
from dataclasses import dataclass

_FIRST_REST_SECONDS = 5.0
_LONGEST_REST_SECONDS = 300.0
_MAX_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class _Rest:
    seconds: float
    until: float


class BlockedStreams:
    """Keeps blocked streams from being tried at every hint: each rests, longer after every failure.

    Only this replica's memory; the sweep finds a blocked stream again, and so tries it once its rest is over.
    """

    def __init__(self) -> None:
        self._rests: dict[str, _Rest] = {}

    def __len__(self) -> int:
        return len(self._rests)

    def resting(self, stream_id: str) -> bool:
        """Whether the stream need not be tried yet."""
        rest = self._rests.get(stream_id)
        return rest is not None and time.monotonic() < rest.until

    def add(self, stream_id: str) -> None:
        """Let a stream rest that has just failed."""
        previous = self._rests.get(stream_id)
        seconds = min(previous.seconds * 2, _LONGEST_REST_SECONDS) if previous else _FIRST_REST_SECONDS
        if len(self._rests) >= _MAX_REMEMBERED:
            self._rests.clear()
        self._rests[stream_id] = _Rest(seconds, time.monotonic() + seconds)

    def remove(self, stream_id: str) -> None:
        """The stream got on."""
        self._rests.pop(stream_id, None)
