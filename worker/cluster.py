"""Commands on their way to the nodes of a Redis Cluster: each to the node that serves the slot of its key.

Nothing is sent twice that may have been executed. A node that answers MOVED or ASK has not executed the
command, so that it then goes where the node says; all else is for who sent it to judge.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from worker.address import Address
from worker.cluster_nodes import Nodes
from worker.sending import Command, NotSentError, exchange

_MOST_REDIRECTIONS = 5

_REDIRECTIONS = (MovedError, AskError)
_UNFIT = (*_REDIRECTIONS, ClusterDownError, ReadOnlyError, BusyLoadingError)
"""What is said by a node that is not the one to ask, or is cut off from the others."""

KeyedCommand = tuple[str | bytes, Command]
"""A command and the key that it is for; it may have others, of the same slot."""


class SlotMovesError(ResponseError):
    """A slot is on its way to another node, and the nodes do not agree yet who serves it."""


class _Target(NamedTuple):
    address: Address
    asking: bool = False


def slot_of(key: str | bytes) -> int:
    """The slot that a key lies in."""
    return int(key_slot(key.encode() if isinstance(key, str) else key))


class Cluster:
    """A cluster as clients see it. What it knows of who serves what is put right when it proves wrong."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self._doubtful = True
        self._looking = asyncio.Lock()

    def doubt(self) -> None:
        """Ask who serves what before anything else is sent."""
        self._doubtful = True

    async def look(self) -> None:
        """Learn who serves what, if that is in doubt. Raises what servers do to us if no node answers."""
        if not self._doubtful:
            return
        async with self._looking:
            if self._doubtful:
                await self.nodes.refresh()
                self._doubtful = False

    def serving(self, key: str | bytes) -> Address | ClusterDownError:
        """The node that serves a key, as far as is known since `look`."""
        address = self.nodes.serving(slot_of(key))
        if address is None:
            self.doubt()
            return ClusterDownError(f"CLUSTERDOWN No node serves the slot of {key!r}")
        return address

    async def connect(self, address: Address) -> tuple[AbstractConnection, ConnectionPool]:
        """A connection to a node, and the pool that it goes back to. Raises NotSentError if there is none."""
        pool = self.nodes.pool(address)
        if pool is None:
            self.doubt()
            raise NotSentError(f"Node {address} of the cluster is not known yet.")
        try:
            return await pool.get_connection(), pool
        except (RedisError, OSError) as error:
            self.suspect(address)
            raise NotSentError(f"Node {address} of the cluster could not be reached: {error}") from error

    @asynccontextmanager
    async def connected(self, address: Address) -> AsyncIterator[AbstractConnection]:
        """The same for a while. A node whose connection fails meanwhile is doubted."""
        connection, pool = await self.connect(address)
        try:
            yield connection
        except (RedisError, OSError):
            self.suspect(address)
            raise
        finally:
            await pool.release(connection)

    def suspect(self, address: Address) -> None:
        """Note that a node does not answer."""
        self.nodes.silent(address)
        self.doubt()

    def heed(self, refusal: RedisError) -> RedisError:
        """A refusal as it is to be told, when it is not going to be followed; a node's that is not the one to
        ask is doubted."""
        if isinstance(refusal, _UNFIT):
            self.doubt()
        if isinstance(refusal, _REDIRECTIONS):
            return SlotMovesError(f"The slot is moving to another node: {refusal}")
        return refusal

    async def ask(self, commands: Sequence[KeyedCommand]) -> list[Any]:
        """The reply to each command, or the error with which a node refuses it.

        Commands for one key keep their order as long as nothing is redirected. Connection errors are raised
        once every node has answered or failed; then some of the commands may have been executed.
        """
        await self.look()
        replies: list[Any] = [self.serving(key) for key, _ in commands]
        targets = {at: _Target(reply) for at, reply in enumerate(replies) if isinstance(reply, Address)}
        for _ in range(_MOST_REDIRECTIONS):
            await self._ask_nodes(commands, targets, replies)
            if any(isinstance(replies[at], _UNFIT) for at in targets):
                self.doubt()
            targets = {
                at: _redirected(replies[at], target.address)
                for at, target in targets.items()
                if isinstance(replies[at], _REDIRECTIONS)
            }
            if not targets:
                return replies
            await self.look()  # A node that has just come is not known otherwise.
        return [self.heed(reply) if isinstance(reply, _REDIRECTIONS) else reply for reply in replies]

    async def _ask_nodes(
        self, commands: Sequence[KeyedCommand], targets: dict[int, _Target], replies: list[Any]
    ) -> None:
        by_node: dict[Address, list[int]] = defaultdict(list)
        for at, target in targets.items():
            by_node[target.address].append(at)

        async def ask_node(address: Address, places: list[int]) -> None:
            sent: list[Command] = []
            for at in places:
                sent += [("ASKING",), commands[at][1]] if targets[at].asking else [commands[at][1]]
            async with self.connected(address) as connection:
                answers = iter(await exchange(connection, sent))
            for at in places:
                if targets[at].asking:
                    next(answers)
                replies[at] = next(answers)

        asked = [ask_node(address, places) for address, places in by_node.items()]
        if len(asked) == 1:
            await asked[0]
            return
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            if outcome is not None:
                raise outcome


def _redirected(reply: MovedError | AskError, asked: Address) -> _Target:
    """Where a reply sends us; a node that has no name for another means that it is where itself is.

    To redis-py MOVED is a kind of ASK.
    """
    return _Target(Address(reply.host or asked.host, reply.port), not isinstance(reply, MovedError))
