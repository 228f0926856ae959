"""A service in this process, as `projection-worker run` would run it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from projections import strategies
from tests.projecting import Replica
from tests.waiting import wait_until
from worker import Keys, Projection, emit
from worker.app import connect, make_service
from worker.leases import Leases
from worker.replicas import ReplicaReport, Replicas
from worker.service import Service
from worker.settings import Settings
from worker.testing.hints import undone

STOP_SECONDS = 10


@dataclass
class Serving:
    """A service under way, and how tests look at what it does."""

    service: Service
    running: asyncio.Task[None]
    stopping: asyncio.Event
    world: Replica

    @property
    def redis(self) -> Redis:
        return self.world.redis

    @property
    def admin(self) -> Redis:
        return self.world.admin

    @property
    def keys(self) -> Keys:
        return self.world.keys

    @property
    def held(self) -> set[int]:
        """The feed partitions that it reads."""
        return set(self.service._feed.held)

    async def emit(self, stream_id: str, event_type: str, data: Any = None) -> str:
        """Append an event with its hint, and return its id."""
        return await emit(self.world.producer, stream_id, "", event_type, data or {}, keys=self.keys)

    async def at(self, stream_id: str, event_id: str) -> bool:
        return await self.world.positions(stream_id) == [event_id]

    async def reached(self, stream_id: str, event_id: str) -> None:
        """Wait until the stream's row stands at an event."""
        await wait_until(lambda: self.at(stream_id, event_id), f"{stream_id} to stand at {event_id}")

    async def pending(self) -> int:
        """How many hints are delivered and not acknowledged."""
        found = 0
        for partition in range(self.keys.partitions):
            groups = await self.redis.xinfo_groups(self.keys.feed(partition))
            found += sum(group["pending"] for group in groups)
        return found

    async def acknowledged(self) -> None:
        """Wait until every hint is read and acknowledged."""

        async def done() -> bool:
            return not await undone(self.redis, self.keys, self.world.projection.name)

        await wait_until(done, "all hints to be acknowledged")

    async def report(self) -> ReplicaReport | None:
        """What the replica told of itself last."""
        reports = await Replicas(self.redis, self.keys, self.world.projection.name).all()
        return reports[0] if reports else None

    async def stop(self) -> None:
        """Ask it to stop, wake its reader so that it notices at once, and wait until it has ended."""
        self.stopping.set()
        await self.world.producer.xadd(self.keys.feed(0), {"stream": "nobody", "type": "no such type"})
        async with asyncio.timeout(STOP_SECONDS):
            await self.running


@asynccontextmanager
async def serving(
    redis_url: str,
    database_url: str,
    keys: Keys,
    projection: Projection = strategies,
    make_leases: type[Leases] = Leases,
    **settings: Any,
) -> AsyncIterator[Serving]:
    """A service that has joined its group; stopped at the end, unless the test did so."""
    chosen = {
        "key_prefix": keys.prefix,
        "feed_partitions": keys.partitions,
        "sweep_seconds": 3600,
        "linger_ms": 0,
        **settings,
    }
    read = Settings(redis_url=redis_url, database_url=database_url, **chosen)
    stopping = asyncio.Event()
    async with connect(read) as servers:
        service = make_service(read, servers, projection, stopping, make_leases)
        running = asyncio.create_task(service.run())
        under_way = Serving(
            service, running, stopping, Replica(servers.redis, keys, servers.engine, projection)
        )
        try:
            await wait_until(lambda: joined(under_way), "the service to join its group")
            yield under_way
            if not running.done():
                await under_way.stop()
        finally:
            running.cancel()
            await asyncio.wait([running])


async def joined(under_way: Serving) -> bool:
    """Whether the group is there and the first sweep is over, so that nothing but hints tells of news."""
    keys, name = under_way.keys, under_way.world.projection.name
    swept = await under_way.redis.exists(keys.sweep_report(name))
    last = keys.feed(keys.partitions - 1)
    return bool(swept and await under_way.redis.exists(last) and await under_way.redis.xinfo_groups(last))
