"""The servers that suffer, each with the proxy through which the workers reach it.

The driver itself goes to the servers directly. Their methods block, and belong into threads.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import redis as blocking_redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.proxy import TcpProxy
from worker.embedded.postgresql import find_postgresql, start_postgresql
from worker.embedded.redis_server import RedisServer as EmbeddedRedis
from worker.embedded.redis_server import find_redis_server, start_redis

WORKERS_ROLE = "chaos_worker"
DATABASE = "chaos"
# Longer than any fault: a command whose reply does not come must not be given up and then be executed.
PATIENCE_SECONDS = 60
_PORT_TAKEN = "While the server was down another program took its port: run this again."


class RedisServer:
    """Redis, which keeps its data over restarts."""

    def __init__(self, folder: Path) -> None:
        self._program = find_redis_server()
        self._folder = folder
        self._server = self._started()
        self.url = self._server.url
        self.proxy = TcpProxy(self.url, record=False)

    def make_client(self) -> Redis:
        """A client that goes past the proxy and repeats nothing: one wants to know what became of a command.

        The connections that it keeps break when Redis is restarted, and it notices only in using them.
        """
        return Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=PATIENCE_SECONDS)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Redis]:
        """A client with a new connection, which works if Redis runs."""
        client = self.make_client()
        try:
            yield client
        finally:
            await client.aclose()

    def start(self) -> None:
        self._server = self._started()
        assert self._server.url == self.url, _PORT_TAKEN

    def _started(self) -> EmbeddedRedis:
        server = start_redis(self._program, self._folder, kept=True, durable=False)
        with blocking_redis.Redis.from_url(server.url) as client:
            # `forget` cuts the file; a rewritten one begins with a part that may not be cut.
            client.config_set("auto-aof-rewrite-percentage", 0)
        return server

    def stop(self) -> None:
        self._server.process.stop()

    def kill(self) -> None:
        self._server.process.popen.kill()
        self._server.process.popen.wait()

    def send_signal(self, signum: signal.Signals) -> None:
        self._server.process.popen.send_signal(signum)

    def wipe(self) -> None:
        """Lose everything. It must not run meanwhile."""
        shutil.rmtree(self._folder / "redis")

    def forget(self, share: float) -> None:
        """Lose the last ``share`` of all that was ever written. It must not run meanwhile.

        The file is a sequence of commands, so its beginning is what stood there at an earlier time.
        """
        [written] = [
            file
            for pattern in ("redis/appendonly.aof", "redis/appendonlydir/*.incr.aof")
            for file in self._folder.glob(pattern)
        ]
        with written.open("r+b") as file:
            file.truncate(int(written.stat().st_size * (1 - share)))

    def close(self) -> None:
        self.proxy.close()
        self.stop()


class PostgresqlServer:
    """PostgreSQL with a database that belongs to the workers, who are no superusers."""

    def __init__(self, folder: Path) -> None:
        self._wheel = find_postgresql()
        self._folder = folder
        self._server = start_postgresql(self._wheel, folder, durable=False)
        self._admin_url = self._server.url
        self.proxy = TcpProxy(self._admin_url, record=False)
        self.url = urlsplit(self._admin_url)._replace(path=f"/{DATABASE}").geturl()
        """The workers' database as the superuser sees it, past the proxy."""
        self.workers_url = _as_worker(self.proxy.url)
        """The workers' database as they see it, through the proxy."""

    async def make_database(self) -> str:
        """Make role and database, and return the URL with which the role gets in past the proxy."""
        password = urlsplit(self._admin_url).password
        connection = await asyncpg.connect(self._admin_url)
        try:
            await connection.execute(f"CREATE ROLE {WORKERS_ROLE} LOGIN PASSWORD '{password}'")
            await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {WORKERS_ROLE}")
        finally:
            await connection.close()
        return _as_worker(self._admin_url)

    async def connect(self) -> asyncpg.Connection:
        """A superuser's connection, which may write even while nobody else may."""
        return await asyncpg.connect(
            self.url,
            command_timeout=PATIENCE_SECONDS,
            server_settings={"application_name": "chaos", "default_transaction_read_only": "off"},
        )

    async def execute(self, *statements: str) -> None:
        """Run statements one by one, each in a transaction of its own."""
        connection = await self.connect()
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    def start(self) -> None:
        self._server = start_postgresql(self._wheel, self._folder, durable=False)
        assert self._server.url == self._admin_url, _PORT_TAKEN

    def stop(self) -> None:
        """Roll back what is under way, and end."""
        self._server.process.stop()

    def close(self) -> None:
        self.proxy.close()
        self.stop()


def _as_worker(url: str) -> str:
    parts = urlsplit(url)
    password_and_address = parts.netloc.partition(":")[2]
    return parts._replace(netloc=f"{WORKERS_ROLE}:{password_and_address}", path=f"/{DATABASE}").geturl()
