"""Where logs are: on the one server that has the feed, too, or spread over the nodes of a cluster.

This is the one place that knows the difference. What is said of "the server" elsewhere holds for each node.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from worker.address import Address
from worker.cluster import Cluster, KeyedCommand
from worker.cluster_client import HomePool
from worker.redis_client import Script, pipelined
from worker.scan_steps import LAST_IDS, NO_STREAM, scan_names, scan_step, scan_step_ends
from worker.sending import REFUSALS, Command, NotSentError, exchange, reply_to_log_entry, transaction

LogArguments = tuple[str | bytes, Sequence[Any]]
"""The key of a log, and what a script takes for it."""


class LogServers(Protocol):
    """What holds logs. Nothing here is repeated that may have been executed."""

    async def ask(self, commands: Sequence[KeyedCommand]) -> list[Any]:
        """The replies to commands for logs, sent at once; refusals in place, connection errors are raised."""

    async def run(self, script: Script, shared: Sequence[Any], logs: Sequence[LogArguments]) -> list[Any]:
        """What a script gives for each log. It takes any number of keys, and gives a list of as many answers;
        its arguments are the shared ones, and then those of each key."""

    def scan(self, pattern: str, count: int) -> AsyncGenerator[Sequence[bytes], None]:
        """All keys, step by step. One that exists all the time comes at least once, unless it moves from one
        node to another meanwhile."""

    def scan_ends(self, pattern: str, count: int) -> AsyncGenerator[dict[bytes, bytes], None]:
        """The same, each with the id of its last entry: empty where there is none, or NO_STREAM."""

    async def append(self, log: str, entry: Command, hints: Sequence[Command]) -> Any:
        """Append an entry to a log, then its hints: what became of the entry, as `reply_to_log_entry` says.

        Raises NotSentError where nothing was appended; after any other error the entry may stand in the log.
        """

    def at(self, log: str) -> AbstractAsyncContextManager[AbstractConnection]:
        """A connection to whoever has a log now. Raises NotSentError, or what servers do to us."""

    def beside_entry(self, hints: Sequence[Command]) -> Sequence[Command]:
        """Those of these hints that may be in one transaction with the entry that they tell of."""

    async def tell(self, hints: Sequence[Command]) -> None:
        """Write the others. Those that get lost are found by a sweep."""

    async def primaries(self) -> list[tuple[str, Redis]]:
        """All servers that hold logs, each with its address; without one where it is the only server."""


def log_servers(redis: Redis) -> LogServers:
    """Where the logs are that belong to this feed."""
    pool = redis.connection_pool
    return _SeveralNodes(pool.cluster, pool) if isinstance(pool, HomePool) else _OneServer(redis)


class _OneServer:
    """Logs on the feed's server."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def ask(self, commands: Sequence[KeyedCommand]) -> list[Any]:
        return await pipelined(self._redis, [command for _, command in commands])

    async def run(self, script: Script, shared: Sequence[Any], logs: Sequence[LogArguments]) -> list[Any]:
        names = [name for name, _ in logs]
        arguments = [*shared, *(argument for _, own in logs for argument in own)]
        async with self._connection() as connection:
            for command in script.commands(names, arguments):
                [reply] = await exchange(connection, [command])
                if not script.unknown(reply):
                    break
        if isinstance(reply, REFUSALS):
            raise reply
        return list(reply)

    async def scan(self, pattern: str, count: int) -> AsyncGenerator[Sequence[bytes], None]:
        async for names in scan_names(self._redis, pattern, count):
            yield names

    async def scan_ends(self, pattern: str, count: int) -> AsyncGenerator[dict[bytes, bytes], None]:
        cursor: Any = 0
        while True:
            cursor, ends = await scan_step_ends(self._redis, cursor, pattern, count)
            yield ends
            if int(cursor) == 0:
                return

    async def append(self, log: str, entry: Command, hints: Sequence[Command]) -> Any:
        async with self.at(log) as connection:
            replies = await exchange(connection, transaction(entry, hints) if hints else [entry])
        return reply_to_log_entry(replies)

    @asynccontextmanager
    async def at(self, log: str) -> AsyncIterator[AbstractConnection]:
        try:
            connection = await self._redis.connection_pool.get_connection()
        except (RedisError, OSError) as error:
            raise NotSentError(str(error)) from error
        try:
            yield connection
        finally:
            await self._redis.connection_pool.release(connection)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AbstractConnection]:
        connection = await self._redis.connection_pool.get_connection()
        try:
            yield connection
        finally:
            await self._redis.connection_pool.release(connection)

    def beside_entry(self, hints: Sequence[Command]) -> Sequence[Command]:
        return hints

    async def tell(self, hints: Sequence[Command]) -> None:
        """There are no others."""

    async def primaries(self) -> list[tuple[str, Redis]]:
        return [("", self._redis)]


class _SeveralNodes:
    """Logs on the nodes of a cluster: no script and no transaction may reach over two of them."""

    def __init__(self, cluster: Cluster, home: HomePool) -> None:
        self._cluster = cluster
        self._home = home

    async def ask(self, commands: Sequence[KeyedCommand]) -> list[Any]:
        return await self._cluster.ask(commands)

    async def run(self, script: Script, shared: Sequence[Any], logs: Sequence[LogArguments]) -> list[Any]:
        commands = [(name, *script.commands([name], [*shared, *own])) for name, own in logs]
        replies = await self._cluster.ask([(name, known) for name, known, _ in commands])
        unknown = [at for at, reply in enumerate(replies) if script.unknown(reply)]
        again = await self._cluster.ask([(commands[at][0], commands[at][2]) for at in unknown])
        for at, reply in zip(unknown, again, strict=True):
            replies[at] = reply
        for reply in replies:
            if isinstance(reply, REFUSALS):
                raise reply
        return [answer for [answer] in replies]

    async def scan(self, pattern: str, count: int) -> AsyncGenerator[Sequence[bytes], None]:
        for _, node in await self.primaries():
            async for names in scan_names(node, pattern, count):
                yield names

    async def scan_ends(self, pattern: str, count: int) -> AsyncGenerator[dict[bytes, bytes], None]:
        for _, node in await self.primaries():
            cursor: Any = 0
            while True:
                cursor, ends = await self._scan_ends_of(node, cursor, pattern, count)
                yield ends
                if int(cursor) == 0:
                    break

    async def _scan_ends_of(
        self, node: Redis, cursor: Any, pattern: str, count: int
    ) -> tuple[Any, dict[bytes, bytes]]:
        """One step. A node runs a script over all logs that it serves, 25 times as fast as we ask for each.

        It refuses where it has keys of a slot that it does not serve, since that is on its way; and
        servers may refuse it altogether, since it names none of its keys.
        """
        with suppress(ResponseError):
            return await scan_step_ends(node, cursor, pattern, count)
        cursor, names = await scan_step(node, cursor, pattern, count)
        ends = await self.run(LAST_IDS, [NO_STREAM], [(name, ()) for name in names])
        return cursor, dict(zip(names, ends, strict=True))

    async def append(self, log: str, entry: Command, hints: Sequence[Command]) -> Any:
        try:
            await self._cluster.look()
        except (RedisError, OSError) as error:
            raise NotSentError(str(error)) from error
        [reply] = await self._cluster.ask([(log, entry)])
        if not isinstance(reply, REFUSALS):
            await self.tell(hints)
        return reply

    @asynccontextmanager
    async def at(self, log: str) -> AsyncIterator[AbstractConnection]:
        self._cluster.doubt()  # Nothing is redirected here.
        await self._cluster.look()
        address = self._cluster.serving(log)
        if not isinstance(address, Address):
            raise address
        async with self._cluster.connected(address) as connection:
            yield connection

    def beside_entry(self, hints: Sequence[Command]) -> Sequence[Command]:
        return []

    async def tell(self, hints: Sequence[Command]) -> None:
        with suppress(RedisError, OSError):
            await self._cluster.ask([(self._home.home, hint) for hint in hints])

    async def primaries(self) -> list[tuple[str, Redis]]:
        await self._cluster.look()
        addresses = self._cluster.nodes.primaries()
        return [(str(address), self._node(address)) for address in addresses]

    def _node(self, address: Address) -> Redis:
        pool = self._cluster.nodes.pool(address)
        assert pool is not None, "a node that serves slots is known"
        return Redis(connection_pool=pool)
