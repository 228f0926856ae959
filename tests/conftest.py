"""Fixtures: servers for the whole run, a database and a key prefix for each test that asks for one."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import hypothesis
import pytest
import redis as redis_py
from redis.asyncio import Redis

from tests.clusters import OwnCluster, own_cluster
from tests.rights import PRODUCER, as_user
from tests.servers import NoServersError, RunningServers, guarded, running_servers
from worker.errors import ProjectionWorkerError
from worker.testing.servers import Databases

# `pytest --hypothesis-profile=thorough` looks twenty times as hard.
hypothesis.settings.register_profile("default", max_examples=100, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=2_000, deadline=None)
hypothesis.settings.load_profile("default")

SERVERS = pytest.StashKey[list[str]]()
SERVERS_KEY = "servers"


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Iterator[RunningServers]:
    """A Redis and a PostgreSQL server; `tests.servers` says which. Without them the tests fail.

    `tests.rights` says who may do what there.
    """
    with ExitStack() as stack:
        try:
            servers = stack.enter_context(guarded(stack.enter_context(running_servers())))
        except (NoServersError, ProjectionWorkerError) as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        pytestconfig.stash[SERVERS].append(str(servers))
        yield servers


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SERVERS] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that prints the summary, if that is another one."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[SERVERS_KEY] = session.config.stash[SERVERS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[SERVERS] += getattr(node, "workeroutput", {}).get(SERVERS_KEY, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which servers the tests ran against."""
    for servers in config.stash[SERVERS]:
        terminalreporter.write_line(f"servers: {servers}")


@pytest.fixture(scope="session")
def databases(servers: RunningServers) -> Iterator[Databases]:
    """Where tests get further databases from, if one is not enough."""
    roles = {"migrate": servers.roles.migrate} if servers.roles else {}
    databases = Databases(servers.database_url, **roles)
    yield databases
    databases.close()


@pytest.fixture
def admin_database_url(databases: Databases) -> Iterator[str]:
    """A database with the current schema, for this test only, as its administrator reaches it."""
    url = databases.create_migrated()
    yield url
    databases.drop(url)


@pytest.fixture
def database_url(servers: RunningServers, admin_database_url: str) -> str:
    """The same, as the worker reaches it."""
    return servers.as_worker(admin_database_url)


@pytest.fixture
def empty_database_url(servers: RunningServers, databases: Databases) -> Iterator[str]:
    """A database without any table, for this test only, as the worker reaches it."""
    url = databases.create()
    servers.grant(url)
    yield servers.as_worker(url)
    databases.drop(url)


@pytest.fixture
def keys_prefix(servers: RunningServers) -> Iterator[str]:
    """What the names of all keys of this test begin with; these keys are deleted after it."""
    prefix = f"t{secrets.token_hex(4)}:"
    servers.guard(prefix)
    yield prefix
    with redis_py.Redis.from_url(servers.admin_redis_url) as client:
        for key in client.scan_iter(match=f"{prefix}*", count=1000):
            client.unlink(key)


@pytest.fixture(scope="session")
def cluster_of_the_run() -> Iterator[OwnCluster]:
    with own_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(cluster_of_the_run: OwnCluster) -> OwnCluster:
    """A Redis Cluster that is well and empty; the test may do to it what it likes."""
    cluster_of_the_run.settle()
    cluster_of_the_run.empty()
    return cluster_of_the_run


@pytest.fixture
async def redis(servers: RunningServers) -> AsyncIterator[Redis]:
    """A client of the Redis server's administrator that gives bytes."""
    client = Redis.from_url(servers.admin_redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def producer(servers: RunningServers) -> AsyncIterator[Redis]:
    """A client of a producer."""
    client = Redis.from_url(as_user(servers.redis_url, PRODUCER))
    yield client
    await client.aclose()
