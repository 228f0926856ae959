"""The servers that the tests run against, and the databases in them.

The first of these that there is:

1. servers of your own, given as TEST_REDIS_URL and TEST_DATABASE_URL (the user needs the right to make
   databases; the tests leave behind neither databases nor keys, roles nor users);
2. containers, where a Docker engine answers;
3. the servers in the PyPI wheels.

TEST_SERVERS=containers or TEST_SERVERS=wheels takes that one and no other. Where there is no server, the
tests that need one fail.
"""

from __future__ import annotations

import gc
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import redis

from tests.rights import WORKER, Rights, RightsRefusedError, know
from tests.waiting import block_until
from worker.embedded import embedded_servers
from worker.testing.servers import Databases, fetch_value, outside_any_loop, servers_of_environment

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

Value = TypeVar("Value")

REDIS_IMAGE = "redis:7"
REDIS_PORT = 6379
POSTGRESQL_IMAGE = "postgres:17"
POSTGRESQL_PORT = 5432
CONTAINER_SECONDS = 60
MAX_CONNECTIONS = 200
DOCKER_SOCKET = Path("/var/run/docker.sock")
DOCKER_PING_SECONDS = 2


class NoServersError(Exception):
    """The tests cannot run: there are no servers; the message says what to do."""


@dataclass(frozen=True, slots=True)
class RunningServers:
    """Two servers that have answered, where they come from and how long they took to start.

    ``redis_url`` is the worker's, ``admin_redis_url`` and ``database_url`` are an administrator's. Where the
    tests may make no users or roles, everybody is the administrator; ``unguarded`` says why.
    """

    redis_url: str
    admin_redis_url: str
    database_url: str
    source: str
    redis_version: str
    postgresql_version: str
    start_seconds: float
    users: Rights | None = None
    roles: Rights | None = None
    unguarded: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"Redis {self.redis_version} and PostgreSQL {self.postgresql_version} from {self.source}, "
            f"ready after {self.start_seconds:.1f} s"
            + "".join(f"; everybody has the rights of the user in the URL: {why}" for why in self.unguarded)
        )

    def guard(self, prefix: str, *, logs: Sequence[str] = ()) -> None:
        """Let all users of Redis see the keys under this prefix, and no others."""
        if self.users:
            self.users.make_users(self.admin_redis_url, prefix, logs=logs)

    def grant(self, database_url: str) -> None:
        """Give the roles their rights in a database."""
        if self.roles:
            self.roles.grant(database_url)

    def as_worker(self, database_url: str) -> str:
        """An administrator's URL of a database, for the worker."""
        return self.roles.named(database_url, WORKER) if self.roles else database_url


@contextmanager
def running_servers(environment: Mapping[str, str] = os.environ) -> Iterator[RunningServers]:
    """Start servers, or find those that the environment names; stop what was started."""
    started = time.monotonic()
    with _servers(environment) as (source, redis_url, database_url):
        try:
            redis_version, postgresql_version = _redis_version(redis_url), _postgresql_version(database_url)
        except (redis.RedisError, asyncpg.PostgresError, OSError, ValueError) as error:
            raise NoServersError(
                f"The servers from {source} do not answer as they should: {error}"
            ) from error
        yield RunningServers(
            redis_url=redis_url,
            admin_redis_url=redis_url,
            database_url=database_url,
            source=source,
            redis_version=redis_version,
            postgresql_version=postgresql_version,
            start_seconds=time.monotonic() - started,
        )


@contextmanager
def guarded(servers: RunningServers) -> Iterator[RunningServers]:
    """The same servers, with users and roles that have the rights of `deploy`, and are gone at the end."""
    rights, refused = Rights.of_own(), []
    with ExitStack() as ending:
        try:
            rights.make_users(servers.admin_redis_url)
        except RightsRefusedError as error:
            refused.append(str(error))
        else:
            ending.callback(rights.drop_users, servers.admin_redis_url)
            url = rights.named(servers.admin_redis_url, WORKER)
            servers = replace(servers, redis_url=url, users=rights)
        try:
            _make_roles(rights, servers.database_url)
        except RightsRefusedError as error:
            refused.append(str(error))
        else:
            ending.callback(rights.drop_roles, servers.database_url)
            servers = replace(servers, roles=rights)
        know(
            rights,
            redis_url=servers.admin_redis_url if servers.users else "",
            database_url=servers.database_url if servers.roles else "",
        )
        yield replace(servers, unguarded=tuple(refused))


def _make_roles(rights: Rights, server_url: str) -> None:
    """Roles belong to the whole server, but the file is run in a database: one that is dropped again."""
    databases = Databases(server_url)
    try:
        rights.make_roles(databases.create())
    finally:
        databases.close()


@contextmanager
def _servers(environment: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    match environment.get("TEST_SERVERS"):
        case None | "" if servers := servers_of_environment(environment):
            yield "TEST_REDIS_URL and TEST_DATABASE_URL", servers.redis_url, servers.database_url
        case "containers" if not _docker_answers(environment):
            raise NoServersError("TEST_SERVERS asks for containers, but no Docker engine answers.")
        case "containers":
            with _containers() as urls:
                yield "containers", *urls
        case None | "" if _docker_answers(environment):
            with _containers() as urls:
                yield "containers", *urls
        case None | "" | "wheels":
            with embedded_servers(durable=False) as servers:
                yield "wheels", servers.redis_url, servers.database_url
        case other:
            raise NoServersError(f"TEST_SERVERS is {other!r}: it may be 'containers' or 'wheels'.")


@contextmanager
def _containers() -> Iterator[tuple[str, str]]:
    # Imported here, since this takes longer than to start the servers of the wheels.
    from docker.errors import DockerException
    from testcontainers.core.container import DockerContainer

    with ExitStack() as running:
        try:
            redis_container = running.enter_context(
                DockerContainer(REDIS_IMAGE).with_exposed_ports(REDIS_PORT),
            )
            postgresql = running.enter_context(
                DockerContainer(POSTGRESQL_IMAGE)
                .with_exposed_ports(POSTGRESQL_PORT)
                .with_env("POSTGRES_PASSWORD", "test")
                .with_command(f"postgres -c fsync=off -c max_connections={MAX_CONNECTIONS}")
            )
        except DockerException as error:
            raise NoServersError(
                f"The containers do not start (TEST_SERVERS=wheels needs none): {error}"
            ) from error
        redis_url = f"redis://{_address(redis_container, REDIS_PORT)}/0"
        database_url = f"postgresql://postgres:test@{_address(postgresql, POSTGRESQL_PORT)}/postgres"
        block_until(lambda: _answers(_redis_version, redis_url), "Redis in its container", CONTAINER_SECONDS)
        block_until(
            lambda: _answers(_postgresql_version, database_url),
            "PostgreSQL in its container",
            CONTAINER_SECONDS,
        )
        yield redis_url, database_url


def _address(container: DockerContainer, port: int) -> str:
    # In a container itself, testcontainers passes over an override that names a local host.
    host = os.environ.get("TESTCONTAINERS_HOST_OVERRIDE") or container.get_container_host_ip()
    return f"{host}:{container.get_exposed_port(port)}"


def _answers(version: Callable[[str], str], url: str) -> bool:
    try:
        return bool(version(url))
    except (redis.RedisError, asyncpg.PostgresError, OSError):
        return False


def _docker_answers(environment: Mapping[str, str]) -> bool:
    if not environment.get("DOCKER_HOST") and not DOCKER_SOCKET.exists():
        return False
    with warnings.catch_warnings():
        # The client leaves the socket of a refused connection to the garbage collector, which complains.
        warnings.simplefilter("ignore", ResourceWarning)
        answers = _docker_ping()
        gc.collect()
    return answers


def _docker_ping() -> bool:
    import docker

    try:
        client = docker.from_env(timeout=DOCKER_PING_SECONDS)
    except docker.errors.DockerException:
        return False
    client.close()
    return True  # since it has asked for the version


def _redis_version(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        return str(client.info("server")["redis_version"])


def _postgresql_version(url: str) -> str:
    return str(outside_any_loop(fetch_value(url, "SHOW server_version")))
