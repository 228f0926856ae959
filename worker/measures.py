"""What the projecting measures as it goes, in plain numbers: the hot path knows nothing of who reads them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

_STREAMS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LATENCIES = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3_600)


class Distribution:
    """How many values fell into each class. A class goes up to its bound, inclusive; the last has none.

    Written by one task; whoever reads it does so in the same loop.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Measures:
    """Of one projector, since it started. Durations are in seconds.

    ``events_read`` are of projected types; an event that is read again counts again. ``events_skipped`` are
    those that moved their row's position and nothing else, by type. ``latency_seconds`` has, for each row
    written, how old the oldest event in the write was at its commit, by this host's clock.
    """

    events_read: int = 0
    events_skipped: Counter[str] = field(default_factory=Counter)
    cache_hits: int = 0
    cache_misses: int = 0
    batch_streams: Distribution = field(default_factory=partial(Distribution, _STREAMS))
    batch_seconds: Distribution = field(default_factory=partial(Distribution, _SECONDS))
    commit_seconds: Distribution = field(default_factory=partial(Distribution, _SECONDS))
    latency_seconds: Distribution = field(default_factory=partial(Distribution, _LATENCIES))
