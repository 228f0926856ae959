"""A worker in this process from its start-up on, and servers that a test may break under it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from redis.asyncio import Redis

from projections import strategies
from tests.rights import OWNER, PRODUCER, as_user, client_as
from tests.waiting import wait_until
from worker import Keys, Projection, emit
from worker.health import Health
from worker.running import work
from worker.settings import Settings

STOP_SECONDS = 10


@dataclass(frozen=True)
class Working:
    """A worker under way, and how a test looks at what it does, over connections of its own."""

    redis: Redis
    producer: Redis
    database_url: str
    keys: Keys
    health: Health

    async def emit(self, stream_id: str) -> str:
        """Say something in a conversation."""
        return await emit(self.producer, stream_id, "", "user_message", {}, keys=self.keys)

    async def reached(self, stream_id: str, event_id: str) -> None:
        """Wait until the stream's row stands at an event."""

        async def there() -> bool:
            sql = "SELECT last_event_id FROM stream_projections WHERE stream_id = $1"
            return bool(await self.fetch(sql, stream_id) == event_id)

        await wait_until(there, f"{stream_id} to stand at {event_id}", 20)

    async def message_count(self, stream_id: str) -> Any:
        return await self.fetch(
            "SELECT message_count FROM stream_projections WHERE stream_id = $1", stream_id
        )

    async def dead_letters(self) -> Any:
        return await self.fetch("SELECT count(*) FROM dead_letters")

    async def fetch(self, sql: str, *parameters: Any, role: str = OWNER) -> Any:
        """One value out of the database, over a connection that stands in nobody's way afterwards."""
        connection = await asyncpg.connect(as_user(self.database_url, role))
        try:
            return await connection.fetchval(sql, *parameters)
        finally:
            await connection.close()

    async def acknowledged(self) -> None:
        """Wait until no hint is pending."""

        async def none_pending() -> bool:
            feeds = [self.keys.feed(partition) for partition in range(self.keys.partitions)]
            groups = [group for feed in feeds for group in await self.redis.xinfo_groups(feed)]
            return bool(groups) and not any(group["pending"] for group in groups)

        await wait_until(none_pending, "all hints to be acknowledged")

    async def not_ready(self, *words: str) -> None:
        """Wait until the worker says that it is not, with these words."""

        def says() -> bool:
            told = " ".join(map(str, self.health.problems()))
            return bool(told) and all(word in told for word in words)

        await wait_until(says, f"the worker not to be ready and to say {words}", 20)

    async def ready(self) -> None:
        await wait_until(lambda: self.health.ready, "the worker to be ready", 20)


@asynccontextmanager
async def working(
    redis: Redis, redis_url: str, worker_database_url: str, database_url: str, keys: Keys,
    projections: Sequence[Projection] = (strategies,), **settings: Any,
) -> AsyncIterator[Working]:  # fmt: skip
    """Start a worker, ready or not; at the end it is stopped and must have ended without an error.

    Tests look into the database with a URL of their own, that of a user whom no fault concerns.
    """
    chosen = {"key_prefix": keys.prefix, "sweep_seconds": 3600, "linger_ms": 0, **settings}
    read = Settings(redis_url=redis_url, database_url=worker_database_url, **chosen)
    stop, health = asyncio.Event(), Health()
    running = asyncio.create_task(work(read, list(projections), health, stop))
    producer = client_as(redis, PRODUCER, kept=True)
    under_way = Working(redis, producer, database_url, keys, health)
    try:
        await wait_until(lambda: not health.ready or running.done(), "the worker to start")
        yield under_way
        stop.set()
        async with asyncio.timeout(STOP_SECONDS):
            await running
    finally:
        running.cancel()
        await asyncio.wait([running])
        await producer.connection_pool.disconnect()
