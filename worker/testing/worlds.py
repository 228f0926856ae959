"""Worlds of one test, which share a database and logs."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from worker import embedded
from worker.app import connect
from worker.projection import Projection
from worker.settings import Settings
from worker.testing.keys_in_redis import delete_all_at
from worker.testing.servers import Databases, outside_any_loop
from worker.testing.world import World


class Worlds:
    """The fixture ``projection_world``: makes worlds of one test, which share a database and logs.

    ``async with worlds(projection) as world``: a world with a worker. At the end the worker is stopped, and
    what it died of fails the test; entering again is like starting the worker again. It belongs to the event
    loop that it is entered in, whoever runs that: a plugin for async tests, or ``asyncio.run``.
    """

    def __init__(
        self, servers: embedded.Servers, databases: Databases, *, create_tables: bool = True
    ) -> None:
        self._servers = servers
        self._databases = databases
        self._create_tables = create_tables
        self._database_url = ""
        self._prefix = f"test-{secrets.token_hex(4)}:"

    @asynccontextmanager
    async def __call__(
        self, projection: Projection, *, worker: bool = True, **settings: Any
    ) -> AsyncIterator[World]:
        """``worker=False`` starts none; `World.start` does. ``settings`` are those of the worker by name."""
        self._database_url = self._database_url or self._databases.create_migrated()
        chosen = {
            "redis_url": self._servers.redis_url,
            "database_url": self._database_url,
            "key_prefix": self._prefix,
            "sweep_seconds": 3600,
            "linger_ms": 0,
            **settings,
        }
        read = Settings(**chosen)
        async with AsyncExitStack() as ending:
            servers = await ending.enter_async_context(connect(read))
            if self._create_tables:
                await _create_tables(servers.engine, projection)
            world = World(read, servers, projection)
            ending.push_async_callback(world.stop)
            if worker:
                await world.start()
            yield world

    def close(self) -> None:
        """Drop the database and all keys."""
        outside_any_loop(delete_all_at(self._servers.redis_url, self._prefix))
        if self._database_url:
            self._databases.drop(self._database_url)


async def _create_tables(engine: AsyncEngine, projection: Projection) -> None:
    """The tables of all models beside this projection's, unless they are there."""
    tables = [projection.table, *(child.table for child in projection.children.values())]
    async with engine.begin() as connection:
        for metadata in {table.metadata for table in tables}:
            await connection.run_sync(metadata.create_all)
