"""What replicas tell of themselves, for `status` and for each other."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields

import orjson
from redis.asyncio import Redis

from worker.keys import Keys

SILENT_AFTER_SECONDS = 15.0
"""A replica that has not reported for this long counts as gone."""


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """One replica's totals since it started. Times are Unix seconds by the replica's clock.

    ``troubles`` are sentences that say what it cannot do at present; it is ready while there are none.
    """

    consumer: str
    version: int
    partitions: list[int]
    started_at: float
    reported_at: float
    pending_streams: int
    hints_in_hand: int
    batches: int
    events_applied: int
    events_redone: int
    events_rejected: int
    events_skipped: int
    rows_written: int
    comparisons_lost: int
    handler_failures: int
    remarks: int
    unreadable_logs: int
    untyped_entries: int
    untyped_entries_swept: int
    malformed_hints: int
    mended_values: int
    rows_verified: int
    rows_drifted: int
    troubles: list[str]

    @property
    def ready(self) -> bool:
        return not self.troubles

    @property
    def alive(self) -> bool:
        return time.time() - self.reported_at < SILENT_AFTER_SECONDS


class Replicas:
    """The reports of all replicas of a projection, in one Redis hash."""

    def __init__(self, redis: Redis, keys: Keys, projection: str) -> None:
        self._redis = redis
        self._name = keys.replicas(projection)

    async def report(self, report: ReplicaReport) -> None:
        """Publish a report in place of the replica's previous one."""
        await self._redis.hset(self._name, report.consumer, orjson.dumps(asdict(report)).decode())

    async def remove(self, consumers: list[str]) -> None:
        """Forget replicas that have stopped."""
        if consumers:
            await self._redis.hdel(self._name, *consumers)

    async def all(self) -> list[ReplicaReport]:
        """Every report that is there, by consumer name, of live replicas and of those that died."""
        stored = await self._redis.hgetall(self._name)
        reports = [report for value in stored.values() if (report := _parse(value)) is not None]
        return sorted(reports, key=lambda report: report.consumer)

    async def remove_silent(self) -> None:
        """Forget replicas that died without a word."""
        await self.remove([report.consumer for report in await self.all() if not report.alive])


def _parse(stored: bytes | str) -> ReplicaReport | None:
    """A report; None if it is none, or if a version of the worker wrote it that reports other things."""
    try:
        values = orjson.loads(stored)
    except orjson.JSONDecodeError:
        return None
    known = {field.name for field in fields(ReplicaReport)}
    return ReplicaReport(**values) if isinstance(values, dict) and values.keys() == known else None
