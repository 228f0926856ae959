"""Clients of the servers as the worker makes them, and what a test needs to project."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.servers import RunningServers
from worker import Keys
from worker.database import make_engine, parse_database_url
from worker.redis_client import make_client

CLIENTS: list[dict[str, Any]] = [
    {"decode_responses": decode, "protocol": protocol, **legacy}
    for decode in (False, True)
    for protocol in (2, 3)
    for legacy in ({}, {"legacy_responses": False})
]


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


@pytest.fixture(params=CLIENTS, ids=lambda options: "-".join(map(str, options.values())))
async def any_client(servers: RunningServers, request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    """A client as an application may have made it."""
    client = Redis.from_url(servers.redis_url, **request.param)
    yield client
    await client.aclose()


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
async def either_client(servers: RunningServers, request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    """A client of the worker's own kind, in both protocols."""
    client = make_client(f"{servers.redis_url}?protocol={request.param}")
    yield client
    await client.aclose()
