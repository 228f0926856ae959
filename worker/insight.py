"""What a worker knows of itself and of its projections, for whoever asks over HTTP.

It looks at both servers by itself, every few seconds: however many ask, and however often, the servers do not
notice.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import structlog
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.dead_letters import LetterCounts
from worker.health import Health
from worker.keys import Keys
from worker.log import MAX_PAYLOAD_MEGABYTES, Log
from worker.projection import Projection
from worker.replicas import ReplicaReport
from worker.service import Service
from worker.slowest import Slowest, SlowStream
from worker.status import (
    InDatabase,
    InRedis,
    ProjectionStatus,
    count_rows,
    events_per_second,
    look_into_database,
    look_into_redis,
    make_status,
)
from worker.trouble import SERVER_ERRORS, sentence
from worker.waiting import wait_for

log = structlog.get_logger("http")
T = TypeVar("T")

LOOK_EVERY_SECONDS = 3.0
_LOOK_SELDOM_SECONDS = 60.0
_ANSWER_SECONDS = 5.0
_HISTORY = timedelta(minutes=10)
_LOOKED_AT_SECONDS = 60.0
_COUNT_EVERY_SECONDS = 60.0
_MOST_SLOWEST = 8
_SLOWEST_EVERY_SECONDS = 10.0
_SLOWEST_PAGE_BYTES = 256 * 1024
_SLOWEST_PAGES = 4
_COUNT_SHARE = 0.02
"""The share of the time that counting rows may take of the database."""


@dataclass(frozen=True, slots=True)
class Moment:
    """How a projection stood at a time, in Unix seconds. None is what nobody knew."""

    at: float
    lag_seconds: float | None
    hints: int | None
    events_per_second: float | None


class Insight:
    """All that is known in this process: its health, its services, and what both servers told last."""

    def __init__(self, health: Health, projections: Sequence[Projection]) -> None:
        self.health = health
        self.services: dict[str, Service] = {}
        self.observed = {projection.name: Observed(projection) for projection in projections}
        self._looked_at = float("-inf")

    def look(self) -> None:
        """Somebody looks at the rows: they are worth counting for a while."""
        self._looked_at = time.monotonic()

    async def observe(
        self, redis: Redis, engine: AsyncEngine, keys: Keys, stop: asyncio.Event, *,
        then: Callable[[], None] = lambda: None, often: bool = True,
    ) -> None:  # fmt: skip
        """Look at both servers again and again. One that is away keeps nothing from looking at the other.

        ``then`` is called after each look. Not ``often`` is once a minute, where nobody can ask over HTTP.
        """
        while not stop.is_set():
            for observed in self.observed.values():
                counts = time.monotonic() - self._looked_at < _LOOKED_AT_SECONDS
                await observed.look(redis, engine, keys, counts=counts)
            then()
            await wait_for(stop, LOOK_EVERY_SECONDS if often else _LOOK_SELDOM_SECONDS)


class Observed:
    """One projection as both servers told of it; None, and ``trouble`` says why, where they did not."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self.in_redis: InRedis | None = None
        self.in_database: InDatabase | None = None
        self.history: deque[Moment] = deque(maxlen=int(_HISTORY.total_seconds() / LOOK_EVERY_SECONDS))
        self._trouble: dict[str, str] = {}
        self._replicas: tuple[float, Sequence[ReplicaReport]] | None = None
        self._rows: tuple[dict[int, int], str] = ({}, "The rows have not been counted yet.")
        self._count_at = 0.0
        self.slowest: list[SlowStream] | None = None
        self._slowest_at = 0.0

    async def look(self, redis: Redis, engine: AsyncEngine, keys: Keys, *, counts: bool) -> None:
        """Look once. ``counts`` says that rows are counted, and slow streams looked at, if not lately."""
        looking = look_into_redis(redis, keys, self.projection)
        self.in_redis = await self._ask("Redis", looking)
        self.in_database = await self._ask("PostgreSQL", self._look_into_database(engine, counts=counts))
        self.history.append(self._moment())
        if counts and time.monotonic() >= self._slowest_at:
            await self._look_for_slowest(redis, engine, keys)

    async def _look_for_slowest(self, redis: Redis, engine: AsyncEngine, keys: Keys) -> None:
        """Costs nothing where nobody waits for anything, and little else."""
        self._slowest_at = time.monotonic() + _SLOWEST_EVERY_SECONDS
        if self.in_redis is None or self.in_database is None:
            self.slowest = None
        elif self.lag_hints or self.in_redis.diverged or self.in_database.letters.blocked:
            own = self.projection.keys(keys)
            logs = Log(
                redis,
                own,
                self.projection.types,
                max_payload_bytes=MAX_PAYLOAD_MEGABYTES * 1024 * 1024,
                page_bytes=_SLOWEST_PAGE_BYTES,
                streams=self.projection.streams,
            )
            slowest = Slowest(redis, engine, own, self.projection, logs, _SLOWEST_PAGES)
            self.slowest = await self._find_in_time(slowest)
        else:
            self.slowest = []

    async def _find_in_time(self, slowest: Slowest) -> list[SlowStream] | None:
        """None where that fails, or takes long: nothing is wrong then, but for what others tell of."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await slowest.guess(_MOST_SLOWEST)
        except SERVER_ERRORS as error:
            log.debug("not_observed", projection=self.projection.name, error=sentence(error))
            return None

    async def _ask(self, server: str, looking: Awaitable[T]) -> T | None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                told = await looking
        except SERVER_ERRORS as error:
            self._trouble[server] = sentence(error)
            log.debug("not_observed", projection=self.projection.name, server=server, error=sentence(error))
            return None
        self._trouble.pop(server, None)
        return told

    async def _look_into_database(self, engine: AsyncEngine, *, counts: bool) -> InDatabase:
        in_database = await look_into_database(engine, self.projection, *self._rows)
        started = time.monotonic()
        if not counts or started < self._count_at:
            return in_database
        self._count_at = started + _COUNT_EVERY_SECONDS  # also where it takes too long
        self._rows = await count_rows(engine, self.projection)
        took = time.monotonic() - started
        self._count_at = started + max(_COUNT_EVERY_SECONDS, took / _COUNT_SHARE)
        return InDatabase(self._rows[0], in_database.rebuild, in_database.letters, self._rows[1])

    def _moment(self) -> Moment:
        now = time.time()
        if self.in_redis is None:
            self._replicas = None
            return Moment(now, None, None, None)
        before, self._replicas = self._replicas, (now, self.in_redis.replicas)
        rate = events_per_second(before[1], self.in_redis.replicas, now - before[0]) if before else None
        return Moment(now, self.lag_seconds, self.lag_hints, rate)

    @property
    def trouble(self) -> list[str]:
        """Why not all is known, in a sentence for each server."""
        return [f"{server} tells nothing: {why}" for server, why in self._trouble.items()]

    @property
    def status(self) -> ProjectionStatus | None:
        """As `status` has it; None while Redis tells nothing."""
        if self.in_redis is None:
            return None
        unknown = InDatabase({}, None, LetterCounts(0, None, 0, 0), " ".join(self.trouble))
        return make_status(self.projection, self.in_redis, self.in_database or unknown)

    @property
    def lag_hints(self) -> int | None:
        """Hints that are not acknowledged yet, read or not."""
        return self.in_redis.feed.pending + (self.in_redis.feed.waiting or 0) if self.in_redis else None

    @property
    def lag_seconds(self) -> float | None:
        """The age of the oldest event that waits: that of its hint, or as the last sweep found it."""
        status = self.status
        return max(status.feed.oldest_seconds, status.lag_seconds or 0.0) if status else None
