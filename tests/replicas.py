"""What replicas tell of themselves, as tests make it up."""

from __future__ import annotations

import time
from dataclasses import fields, replace

from worker.replicas import ReplicaReport


def report(consumer: str, *, seconds_ago: float = 0) -> ReplicaReport:
    """The report of a replica that has done nothing and is in no trouble."""
    numbers = {field.name: 0 for field in fields(ReplicaReport) if field.type in ("int", "float")}
    blank = ReplicaReport(consumer=consumer, partitions=[], troubles=[], **numbers)
    return replace(blank, reported_at=time.time() - seconds_ago)
