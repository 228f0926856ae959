"""A client of the node of a cluster that serves the feed and the worker's own keys: their home.

All of these lie in one slot, so that they are used as on one server: scripts, transactions and reads of
several keys stay as they are. Logs are elsewhere; `worker.log_servers` finds them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection

from worker.address import Address
from worker.cluster import Cluster, SlotMovesError, slot_of
from worker.cluster_nodes import LentNodes, OwnNodes
from worker.keys import Keys
from worker.redis_url import ClusterNodes
from worker.sending import REFUSALS

AnyRedis = Redis | RedisCluster
"""A client as applications have them: of one server, or of a cluster."""

CONNECT_SECONDS = 3.0
"""How long a node may take to connect: a host that died without a word answers nothing at all."""
_READS = {b"XRANGE", b"XREVRANGE"}
_SHAPES = ("protocol", "legacy_responses", "decode_responses", "encoding", "encoding_errors", "encoder_class")
"""The options of a connection that say what replies look like."""


class HomePool(ConnectionPool):
    """Connections to whichever node serves the home slot, out of the pools of all nodes."""

    def __init__(self, cluster: Cluster, home: str, shapes: Mapping[str, Any]) -> None:
        super().__init__(**shapes)
        self.cluster = cluster
        self.home = home
        self._lent: dict[AbstractConnection, tuple[Address, ConnectionPool]] = {}

    async def get_connection(
        self, command_name: str | None = None, *keys: Any, **options: Any
    ) -> AbstractConnection:
        await self.cluster.look()
        address = self.cluster.serving(self.home)
        if not isinstance(address, Address):
            raise address
        connection, pool = await self.cluster.connect(address)
        self._lent[connection] = address, pool
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        address, pool = self._lent.pop(connection)
        if not connection.is_connected:  # It failed, and with it perhaps the node.
            self.cluster.suspect(address)
        await pool.release(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close connections to all nodes, and ask who serves what before the next one is made."""
        self.cluster.doubt()
        await self.cluster.nodes.close(in_use=inuse_connections)


async def _heeding_moves(redis: Redis, reply: Awaitable[Any]) -> Any:
    """A reply. A slot that has moved is asked for anew, and is no mistake of whoever sent the command."""
    try:
        return await reply
    except REFUSALS as error:
        assert isinstance(redis.connection_pool, HomePool)
        raise redis.connection_pool.cluster.heed(error) from None


class _HomePipeline(Pipeline):
    async def parse_response(self, connection: Connection, command_name: str | bytes, **options: Any) -> Any:
        return await _heeding_moves(self, super().parse_response(connection, command_name, **options))


class HomeClient(Redis):
    """A client of the home, which also reads single logs, wherever they are."""

    connection_pool: HomePool

    async def parse_response(self, connection: Connection, command_name: str | bytes, **options: Any) -> Any:
        return await _heeding_moves(self, super().parse_response(connection, command_name, **options))

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return _HomePipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if _as_bytes(args[0]) not in _READS:
            # A slot that has moved once may be asked for again: where it was, nothing has been executed.
            with suppress(SlotMovesError):
                return await self._execute(*args, **options)
            return await self._execute(*args, **options)
        [reply] = await self.connection_pool.cluster.ask([(args[1], args)])
        if isinstance(reply, REFUSALS):
            raise reply
        return reply

    async def _execute(self, *args: Any, **options: Any) -> Any:
        execute: Callable[..., Awaitable[Any]] = super().execute_command
        return await execute(*args, **options)


def _as_bytes(part: str | bytes) -> bytes:
    return part.encode() if isinstance(part, str) else part


def cluster_client(url: ClusterNodes, keys: Keys, options: Mapping[str, Any]) -> HomeClient:
    """The worker's own client of a cluster; ``options`` are those of its connections beside the URL's."""
    options = {**url.options, **options, "socket_connect_timeout": CONNECT_SECONDS}
    kind = SSLConnection if url.tls else Connection

    def make_pool(address: Address) -> ConnectionPool:
        return ConnectionPool(kind, host=address.host, port=address.port, **options)

    home = replace(keys, on_cluster=True).feed_partitions
    client = HomeClient(
        connection_pool=HomePool(Cluster(OwnNodes(url.addresses, make_pool)), home, _shapes(options))
    )
    client.auto_close_connection_pool = True
    return client


# For each client of an application, one for each slot in which it has a feed.
_over_lent: WeakKeyDictionary[RedisCluster, dict[int, HomeClient]] = WeakKeyDictionary()


def as_used(redis: AnyRedis, keys: Keys) -> tuple[Redis, Keys]:
    """An application's client and keys as the worker uses them: of a cluster over its own connections."""
    if not isinstance(redis, RedisCluster | HomeClient):
        return redis, keys
    keys = keys if keys.on_cluster else replace(keys, on_cluster=True)
    if isinstance(redis, HomeClient):
        return redis, keys
    homes = _over_lent.setdefault(redis, {})
    slot = slot_of(keys.feed_partitions)
    if slot not in homes:
        cluster = next((home.connection_pool.cluster for home in homes.values()), None)
        pool = HomePool(
            cluster or Cluster(LentNodes(redis)), keys.feed_partitions, _shapes(redis.connection_kwargs)
        )
        homes[slot] = HomeClient(connection_pool=pool)
    return homes[slot], keys


def _shapes(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in _SHAPES if name in options}
