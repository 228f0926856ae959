"""Clients of the servers as the worker makes them, and what a test needs to project."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.servers import RunningServers
from worker import Keys
from worker.database import make_engine, parse_database_url
from worker.redis_client import make_client


@pytest.fixture
def keys(keys_prefix: str) -> Keys:
    """The names of this test's keys."""
    return Keys(keys_prefix)


@pytest.fixture
async def client(servers: RunningServers) -> AsyncIterator[Redis]:
    """A Redis client of the worker's own kind."""
    client = make_client(servers.redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine of the worker's own kind, on this test's database."""
    engine = make_engine(parse_database_url(database_url), pool_size=5, application_name="test")
    yield engine
    await engine.dispose()
