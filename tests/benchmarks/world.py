"""A database and a key prefix for one measurement, empty at first and gone afterwards."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import asyncpg
from redis.asyncio import Redis

from tests.acceptance.commands import environment
from tests.benchmarks.workload import Appended, Events, append
from tests.servers import RunningServers
from worker import Keys
from worker.testing.servers import Databases

_COLUMNS = (
    "stream_id, name, record_type, wdk_strategy_id, is_saved, model_id, message_count, step_count, plan, "
    "steps, root_step_id"
)
_UNFINISHED = """
    SELECT EXISTS (
        SELECT FROM expected e WHERE NOT EXISTS (
            SELECT FROM stream_projections p
            WHERE p.stream_id = e.stream_id AND p.last_event_id = e.last_event_id))"""


@dataclass(frozen=True)
class World:
    """Where a measurement takes place. ``env`` is for workers and baselines; all settings have defaults."""

    redis_url: str
    database_url: str
    keys: Keys
    env: Mapping[str, str]
    redis: Redis
    connection: asyncpg.Connection

    async def append(self, workload: Events, *, hints: bool = True) -> Appended:
        """Append a workload as fast as Redis takes it, and expect rows where it ends."""
        appended = await asyncio.to_thread(append, self.redis_url, self.keys, workload, hints=hints)
        await self.expect(appended.last)
        return appended

    async def expect(self, last: Mapping[str, str]) -> None:
        """Take note of the last projected event of each stream, in place of what was expected before."""
        rows = list(last.items())
        random.Random(0).shuffle(rows)
        await self.connection.execute(
            "CREATE TABLE IF NOT EXISTS expected (stream_id text, last_event_id text); TRUNCATE expected"
        )
        await self.connection.copy_records_to_table("expected", records=rows)

    async def is_finished(self) -> bool:
        """Whether every row stands where it is expected.

        Streams are looked at by chance, up to the first that is not there yet: while many are not, that costs
        PostgreSQL next to nothing.
        """
        return not await self.connection.fetchval(_UNFINISHED)

    async def rows(self) -> dict[str, str]:
        """What readers see of each stream, as a digest without event ids: the same in every run."""
        digest = f"SELECT stream_id, md5(ROW({_COLUMNS})::text) FROM stream_projections"
        return dict(await self.connection.fetch(digest))

    async def clear(self) -> None:
        """Delete all keys."""
        cursor = 0
        while True:
            cursor, names = await self.redis.scan(cursor, match=f"{self.keys.prefix}*", count=5_000)
            if names:
                await self.redis.unlink(*names)
            if cursor == 0:
                return


@asynccontextmanager
async def make_world(servers: RunningServers, databases: Databases) -> AsyncIterator[World]:
    """A world on these servers, with the current schema."""
    async with AsyncExitStack() as stack:
        url = await asyncio.to_thread(databases.create_migrated)
        stack.push_async_callback(asyncio.to_thread, databases.drop, url)
        keys = Keys(f"b{secrets.token_hex(4)}:")
        redis = Redis.from_url(servers.redis_url)
        stack.push_async_callback(redis.aclose)
        connection = await asyncpg.connect(
            url,
            # `expected` has no index, and has to be walked in its order; rows are found by their key.
            server_settings={"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_seqscan": "off"},
        )
        stack.push_async_callback(connection.close)
        env = environment(REDIS_URL=servers.redis_url, DATABASE_URL=url, WORKER_KEY_PREFIX=keys.prefix)
        world = World(servers.redis_url, url, keys, env, redis, connection)
        stack.push_async_callback(world.clear)
        yield world
