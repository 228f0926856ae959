"""All faults by name: each breaks one thing, and mends it before it ends.

A fault takes hold of one target at a time, so that none pulls the rug from under another.
"""

from __future__ import annotations

from tests.chaos.faults import network, operators, outages, postgresql, redis, workers
from tests.chaos.faults.fault import Fault, Target

__all__ = ["FAULTS", "Fault", "Target"]

FAULTS: tuple[Fault, ...] = (
    *workers.FAULTS,
    *postgresql.FAULTS,
    *outages.FAULTS,
    *redis.FAULTS,
    *network.FAULTS,
    *operators.FAULTS,
)
