"""Clients of the servers as the worker makes them, and what a test needs to project."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.rights import OPERATOR, PRODUCER, REDIS_READER, ROLE_READER, as_user
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
    """The worker's client."""
    client = make_client(servers.redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine of the worker, on this test's database."""
    engine = make_engine(parse_database_url(database_url), pool_size=5, application_name="test")
    yield engine
    await engine.dispose()


@pytest.fixture
async def reader(servers: RunningServers) -> AsyncIterator[Redis]:
    """A client of an application that reads."""
    client = Redis.from_url(as_user(servers.redis_url, REDIS_READER))
    yield client
    await client.aclose()


@pytest.fixture
async def reading(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine of an application that reads."""
    url = parse_database_url(as_user(database_url, ROLE_READER))
    engine = make_engine(url, pool_size=5, application_name="reader")
    yield engine
    await engine.dispose()


@pytest.fixture(params=CLIENTS, ids=lambda options: "-".join(map(str, options.values())))
async def any_client(servers: RunningServers, request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    """A client as an application may have made it, of an operator."""
    client = Redis.from_url(as_user(servers.redis_url, OPERATOR), **request.param)
    yield client
    await client.aclose()


@pytest.fixture(params=CLIENTS, ids=lambda options: "-".join(map(str, options.values())))
async def any_producer(servers: RunningServers, request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    """A client as an application may have made it, of a producer."""
    client = Redis.from_url(as_user(servers.redis_url, PRODUCER), **request.param)
    yield client
    await client.aclose()


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
async def either_client(servers: RunningServers, request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    """The worker's client, in both protocols."""
    client = make_client(f"{servers.redis_url}?protocol={request.param}")
    yield client
    await client.aclose()
