"""The servers that tests run against, and a database for each test.

Servers of your own, given as TEST_REDIS_URL and TEST_DATABASE_URL, or else the embedded ones. The user of the
database needs the right to make databases; nothing is left behind.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
from redis.exceptions import RedisError

from worker.embedded import Servers, embedded_servers
from worker.errors import SettingsError
from worker.migrate import migrate
from worker.testing.keys_in_redis import ping
from worker.trouble import describe

Value = TypeVar("Value")


def servers_of_environment(environment: Mapping[str, str] = os.environ) -> Servers | None:
    """The servers that the environment names. Raises SettingsError where it names only one."""
    redis_url, database_url = environment.get("TEST_REDIS_URL"), environment.get("TEST_DATABASE_URL")
    if redis_url and database_url:
        return Servers(redis_url, database_url)
    if redis_url or database_url:
        raise SettingsError("Set both TEST_REDIS_URL and TEST_DATABASE_URL, or neither of them.")
    return None


@contextmanager
def servers_for_tests() -> Iterator[Servers]:
    """The servers of the environment, or embedded ones that are stopped at the end."""
    if servers := servers_of_environment():
        _check_reachable(servers)
        yield servers
        return
    with embedded_servers(durable=False) as servers:
        yield servers


def _check_reachable(servers: Servers) -> None:
    """Raise SettingsError for a server that does not answer, before every test fails of it."""
    try:
        outside_any_loop(ping(servers.redis_url))
    except (RedisError, OSError, SettingsError) as error:
        raise _unreachable("TEST_REDIS_URL", error) from error
    try:
        outside_any_loop(fetch_value(servers.database_url, "SELECT 1"))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
        raise _unreachable("TEST_DATABASE_URL", error) from error


def _unreachable(variable: str, error: Exception) -> SettingsError:
    return SettingsError(
        f"The server that {variable} names could not be reached or refused: {describe(error)}; correct the "
        "URL, start the server, or unset both TEST_REDIS_URL and TEST_DATABASE_URL."
    )


class Databases:
    """Makes a database for each test: a migrated one is a copy of a template that was migrated once.

    ``make_tables`` is called with the URL of the template, to make what the worker's own migrations do not.
    ``migrate`` makes what they do.
    """

    def __init__(
        self,
        server_url: str,
        make_tables: Callable[[str], object] | None = None,
        *,
        migrate: Callable[[str], object] = migrate,
    ) -> None:
        self._server_url = server_url
        self._make_tables = make_tables
        self._migrate = migrate
        self._template: str | None = None
        self._made: set[str] = set()

    def create(self) -> str:
        """Make an empty database and return its URL."""
        return self._create("template0")

    def create_migrated(self) -> str:
        """Make a database with the current schema and return its URL."""
        if self._template is None:
            url = self.create()
            with ThreadPoolExecutor(1) as thread:  # since it may run an event loop
                thread.submit(self._migrate, url).result()
                if self._make_tables:
                    thread.submit(self._make_tables, url).result()
            self._template = url
        return self._create(_name(self._template))

    def drop(self, url: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self._execute(f'DROP DATABASE "{_name(url)}" WITH (FORCE)')
        self._made.discard(url)

    def close(self) -> None:
        """Drop what is left: the template, and databases that nobody dropped."""
        for url in sorted(self._made):
            self.drop(url)

    def _create(self, template: str) -> str:
        name = f"projection_worker_test_{secrets.token_hex(6)}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        url = urlsplit(self._server_url)._replace(path=f"/{name}").geturl()
        self._made.add(url)
        return url

    def _execute(self, statement: str) -> None:
        outside_any_loop(fetch_value(self._server_url, statement))


def _name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


async def fetch_value(url: str, statement: str) -> Any:
    """The first value that a statement gives."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def outside_any_loop(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine in a thread of its own, so that the event loops of tests and fixtures never meet it."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
