"""The nodes of a Redis Cluster: which of them serves which slots, and connections to each.

redis-py's client of clusters would do for neither side as it is. It sends commands again after a connection
was lost while they were under way, it asks the server about the keys of each XREADGROUP, it sends ASKING on
another connection than the command that it is for, and it closes the connections of everybody when a single
command finds the cluster down.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from weakref import ref

from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, Connection
from redis.exceptions import ConnectionError, RedisClusterException, RedisError, SlotNotCoveredError

from worker.address import Address
from worker.sending import REFUSALS, exchange

SLOTS = 16_384


class Nodes(Protocol):
    """What is known of a cluster's nodes, right or not: a node that is asked in vain says so."""

    async def refresh(self) -> None:
        """Learn anew who serves what, from any node. Raises what the last one does if none answers."""

    def serving(self, slot: int) -> Address | None:
        """The primary that serves a slot, if there is one."""

    def primaries(self) -> list[Address]:
        """All primaries that serve slots."""

    def pool(self, address: Address) -> ConnectionPool | None:
        """Connections to a node; None where it is not known before a `refresh`."""

    def silent(self, address: Address) -> None:
        """Note that a node does not answer."""

    async def close(self, *, in_use: bool) -> None:
        """Close idle connections to all nodes, and those in use, too, if asked for."""


class OwnNodes:
    """Nodes over connections of our own."""

    def __init__(self, seeds: Sequence[Address], make_pool: Callable[[Address], ConnectionPool]) -> None:
        self._seeds = seeds
        self._make_pool = make_pool
        self._pools: dict[Address, ConnectionPool] = {}
        self._members: frozenset[Address] = frozenset()
        self._serving: list[Address | None] = [None] * SLOTS
        self._silent: set[Address] = set()

    async def refresh(self) -> None:
        """By chance, since each may be cut off from the others and not know it; who was silent comes last."""
        addresses = list({*self._members, *self._seeds})
        random.shuffle(addresses)
        addresses.sort(key=self._silent.__contains__)
        for at, address in enumerate(addresses, 1):
            try:
                self._learn(await self._ask(address), address)
            except (RedisError, OSError):
                self._silent.add(address)
                if at == len(addresses):
                    raise
            else:
                self._silent.discard(address)
                return

    async def _ask(self, address: Address) -> Any:
        pool = self.pool(address)
        connection = await pool.get_connection()
        try:
            [reply] = await exchange(connection, [("CLUSTER", "SLOTS")])
        finally:
            await pool.release(connection)
        if isinstance(reply, REFUSALS):
            raise reply
        return reply

    def _learn(self, slots: Any, asked: Address) -> None:
        serving: list[Address | None] = [None] * SLOTS
        members: set[Address] = set()
        for first, last, *nodes in slots:
            # A node that does not know how others reach it gives no host: it is where we have asked.
            addresses = [Address((host or b"").decode() or asked.host, port) for host, port, *_ in nodes]
            serving[first : last + 1] = [addresses[0]] * (last + 1 - first)
            members.update(addresses)
        self._serving, self._members = serving, frozenset(members)

    def serving(self, slot: int) -> Address | None:
        return self._serving[slot]

    def primaries(self) -> list[Address]:
        return sorted({address for address in self._serving if address}, key=str)

    def pool(self, address: Address) -> ConnectionPool:
        if address not in self._pools:
            self._pools[address] = self._make_pool(address)
        return self._pools[address]

    def silent(self, address: Address) -> None:
        self._silent.add(address)

    async def close(self, *, in_use: bool) -> None:
        for pool in list(self._pools.values()):  # A refresh may come upon new nodes meanwhile.
            await pool.disconnect(inuse_connections=in_use)


class LentNodes:
    """The nodes that an application's client knows, over the connections that it has to them.

    The client is not kept alive by this: whoever calls us has it.
    """

    def __init__(self, client: RedisCluster) -> None:
        self._client = ref(client)
        self._asked = False
        self._pools: dict[Address, _LentPool] = {}

    @property
    def _used(self) -> RedisCluster:
        client = self._client()
        assert client is not None, "the application's client is gone while it is used"
        return client

    @property
    def _manager(self) -> Any:
        return self._used.nodes_manager

    async def refresh(self) -> None:
        try:
            await self._used.initialize()  # At first it knows nothing, and cannot be closed.
            if self._asked:
                await self._manager.initialize()
            self._asked = True
        except RedisClusterException as error:  # To redis-py that is no RedisError.
            raise ConnectionError(str(error)) from error

    def serving(self, slot: int) -> Address | None:
        try:
            node = self._manager.get_node_from_slot(slot)
        except SlotNotCoveredError:
            return None
        return Address(node.host, int(node.port))

    def primaries(self) -> list[Address]:
        nodes = self._manager.get_nodes_by_server_type("primary")
        return sorted({Address(node.host, int(node.port)) for node in nodes}, key=str)

    def pool(self, address: Address) -> ConnectionPool | None:
        node = self._manager.get_node(address.host, address.port)
        if node is None:
            return None
        known = self._pools.get(address)
        if known is None or known.node is not node:
            known = self._pools[address] = _LentPool(node)
        return known

    def silent(self, address: Address) -> None:
        """Nothing: redis-py asks the nodes in an order of its own."""

    async def close(self, *, in_use: bool) -> None:
        """Nothing: they are the application's."""


class _LentPool(ConnectionPool):
    """The connections that a client of a cluster has to one node."""

    def __init__(self, node: ClusterNode) -> None:
        super().__init__(node.connection_class)
        self.node = node

    async def get_connection(
        self, command_name: str | None = None, *keys: Any, **options: Any
    ) -> AbstractConnection:
        connection = self.node.acquire_connection()
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            self.node.release(connection)
            raise
        return connection

    async def release(self, connection: AbstractConnection) -> None:
        assert isinstance(connection, Connection)
        self.node.release(connection)
