"""A Redis Cluster of the tests' own: three primaries with a replica each. Tests kill nodes and move slots.

The program is that of the wheels, or the one that TEST_CLUSTER_SERVER names.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis as redis_py
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from tests.waiting import block_until
from worker.embedded.process import LOOPBACK, Program, RunningProgram
from worker.embedded.redis_server import find_redis_server

SLOTS = 16_384
_PRIMARIES = 3
_BUS = 10_000
"""How far above its port a node listens for the others."""
_SECONDS = 30
_VOTE_SECONDS = 0.1
_SETTINGS = f"""
bind {LOOPBACK}
save ""
cluster-enabled yes
cluster-node-timeout 1000
cluster-replica-validity-factor 0
repl-diskless-sync yes
repl-diskless-sync-delay 0
"""


class Node:
    """One server of a cluster; it has its port all its life, and forgets its data when it ends."""

    def __init__(self, folder: Path, password: str) -> None:
        self.port = _free_port()
        self.url = f"redis://:{password}@{LOOPBACK}:{self.port}"
        self._folder = folder / str(self.port)
        self._folder.mkdir()
        settings = f"{_SETTINGS}port {self.port}\nrequirepass {password}\nmasterauth {password}\n"
        (self._folder / "redis.conf").write_text(settings)
        self._running: RunningProgram | None = None
        self._client = redis_py.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=10)
        self._client.response_callbacks.clear()
        self.start()
        self.id = self.do("CLUSTER MYID").decode()

    def start(self) -> None:
        """Start it, unless it runs; it remembers the others."""
        if self._running is None:
            self._running = Program(
                name="A node of the cluster",
                command=[os.environ.get("TEST_CLUSTER_SERVER") or find_redis_server(), "redis.conf"],
                folder=self._folder,
                log=self._folder / "redis.log",
                stop_signals=[signal.SIGTERM],
            ).start(lambda _: self._answers())

    def _answers(self) -> bool:
        with suppress(redis_py.RedisError, OSError):
            return b"loading:0" in self.do("INFO persistence")
        return False

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """In this block it takes connections and bytes, and answers nothing."""
        assert self._running is not None
        self._running.popen.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._running.popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        if self._running is not None:
            self._running.popen.kill()
            self._running.popen.wait()
            self._running = None

    def close(self) -> None:
        self.kill()
        self._client.close()

    def do(self, command: str, *arguments: Any) -> Any:
        """What it answers to a command, raw."""
        return self._client.execute_command(*command.split(), *arguments)

    @property
    def runs(self) -> bool:
        return self._running is not None

    @property
    def is_primary(self) -> bool:
        return self.runs and self.do("ROLE")[0] == b"master"

    @property
    def is_well(self) -> bool:
        """Whether it finds the cluster well, and, as a replica, has all that its primary has."""
        role = self.do("ROLE")
        return b"cluster_state:ok" in self.do("CLUSTER INFO") and (
            role[0] == b"master" or role[3] == b"connected"
        )

    def slots(self) -> list[tuple[int, int, tuple[int, ...]]]:
        """Which slots are served by which ports, the primary's first, as this node knows it."""
        return sorted(
            (first, last, tuple(node[1] for node in nodes))
            for first, last, *nodes in self.do("CLUSTER SLOTS")
        )


class OwnCluster:
    """The cluster and what can happen to it. Each method returns when it has happened."""

    def __init__(self, folder: Path) -> None:
        self.password = secrets.token_hex(8)
        self.nodes: list[Node] = []
        self._folder = folder

    def start(self) -> None:
        """Start the nodes, and make them a cluster."""
        for _ in range(2 * _PRIMARIES):
            self.nodes.append(Node(self._folder, self.password))
        for number, node in enumerate(self.nodes, 1):
            node.do("CLUSTER SET-CONFIG-EPOCH", number)
            self.nodes[0].do("CLUSTER MEET", LOOPBACK, node.port)
        for number, node in enumerate(self.nodes[:_PRIMARIES]):
            node.do(
                "CLUSTER ADDSLOTS",
                *range(number * SLOTS // _PRIMARIES, (number + 1) * SLOTS // _PRIMARIES),
            )
        known = f"cluster_known_nodes:{len(self.nodes)}".encode()
        block_until(lambda: all(known in n.do("CLUSTER INFO") for n in self.nodes), "nodes to meet", _SECONDS)
        for replica, primary in zip(self.nodes[_PRIMARIES:], self.nodes, strict=False):
            replica.do("CLUSTER REPLICATE", primary.id)
        self.settle()

    @property
    def url(self) -> str:
        hosts = ",".join(f"{LOOPBACK}:{node.port}" for node in self.nodes[:_PRIMARIES])
        return f"redis+cluster://:{self.password}@{hosts}"

    def settle(self) -> None:
        """Start what does not run, and wait until all nodes are well, and agree on who serves what."""
        for node in self.nodes:
            node.start()
            node.do("CONFIG SET", "masterauth", self.password)
        block_until(self._is_settled, "the nodes of the cluster to be well", _SECONDS)

    def _is_settled(self) -> bool:
        if not all(node.is_well for node in self.nodes):
            return False
        served = {port for *_, ports in self.nodes[0].slots() for port in ports}
        return self._agrees() and len(served) == len(self.nodes)

    def _agrees(self) -> bool:
        """Whether all nodes that run name the same primaries."""
        running = [node for node in self.nodes if node.runs]
        return len({tuple((first, last, ports[0]) for first, last, ports in n.slots()) for n in running}) == 1

    def primary_of(self, key: str) -> Node:
        """The node that serves a key."""
        return self._serving(key_slot(key.encode()))

    def _serving(self, slot: int) -> Node:
        asked = next(node for node in self.nodes if node.runs)
        [port] = [ports[0] for first, last, ports in asked.slots() if first <= slot <= last]
        return next(node for node in self.nodes if node.port == port)

    def other_than(self, primary: Node) -> Node:
        """Some other primary."""
        return next(node for node in self.nodes if node is not primary and node.is_primary)

    def _replica_of(self, primary: Node) -> Node:
        roles = [(node, node.do("ROLE")) for node in self.nodes if node.runs]
        return next(node for node, role in roles if role[0] == b"slave" and role[2] == primary.port)

    def cut_off_replica(self, primary: Node) -> None:
        """Have a primary's replica get no more of what it is told; `settle` mends that."""
        replica = self._replica_of(primary)
        replica.do("CONFIG SET", "masterauth", "wrong")
        replica.do("CLIENT KILL", "TYPE", "master")
        block_until(lambda: not replica.is_well, "the replica to be cut off", _SECONDS)

    def fail_over(self, primary: Node) -> None:
        """Have its replica take over from a primary in peace."""
        replica = self._replica_of(primary)

        def has_taken_over() -> bool:
            if not replica.is_primary:  # The others do not vote twice in two seconds.
                replica.do("CLUSTER FAILOVER")
                time.sleep(_VOTE_SECONDS)
            return replica.is_primary

        block_until(has_taken_over, "the replica to take over", _SECONDS)
        block_until(self._agrees, "all nodes to know who has taken over", _SECONDS)

    def kill(self, primary: Node) -> None:
        """End a primary at once, and wait until its replica has taken over."""
        replica = self._replica_of(primary)
        primary.kill()
        block_until(lambda: replica.is_primary, "the replica to take over", _SECONDS)
        block_until(self._agrees, "all nodes to know who has taken over", _SECONDS)

    def kill_replica(self, primary: Node) -> None:
        """End a primary's replica at once."""
        self._replica_of(primary).kill()

    def await_successor(self, frozen: Node) -> None:
        """Wait until all others know that a replica has taken over from a primary that is frozen."""
        others = [node for node in self.nodes if node is not frozen]

        def is_replaced() -> bool:
            return all(frozen.port != ports[0] for node in others for *_, ports in node.slots())

        block_until(is_replaced, "a successor", _SECONDS)

    def begin_move(self, slot: int, target: Node) -> Node:
        """Have a slot be on its way to another primary; returns the one that it comes from."""
        source = self._serving(slot)
        target.do("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.do("CLUSTER SETSLOT", slot, "MIGRATING", target.id)
        return source

    def move_keys(self, slot: int, source: Node, target: Node, count: int = 1_000) -> int:
        """Move some of the keys of a slot that is on its way; how many."""
        keys = source.do("CLUSTER GETKEYSINSLOT", slot, count)
        if keys:
            credentials = ("AUTH", self.password)
            source.do("MIGRATE", LOOPBACK, target.port, "", 0, 10_000, *credentials, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, source: Node, target: Node) -> None:
        """Have a slot be the target's, once all its keys have been moved."""
        others = [node for node in self.nodes if node not in (source, target) and node.is_primary]
        for node in (target, source, *others):
            node.do("CLUSTER SETSLOT", slot, "NODE", target.id)

    def move_slot(self, slot: int, target: Node) -> None:
        """Move a slot and its keys to another primary, as resharding does."""
        source = self.begin_move(slot, target)
        while self.move_keys(slot, source, target):
            pass
        self.end_move(slot, source, target)

    def empty(self) -> None:
        """Delete all keys."""
        for node in self.nodes:
            if node.is_primary:
                node.do("FLUSHALL")

    def close(self) -> None:
        for node in self.nodes:
            node.close()


@contextmanager
def own_cluster() -> Iterator[OwnCluster]:
    """Start a cluster."""
    with tempfile.TemporaryDirectory(prefix="projection-worker-cluster-") as folder:
        cluster = OwnCluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.close()


def _free_port() -> int:
    """A port that is free together with that of the bus."""
    while True:
        port = random.randrange(20_000, 30_000)
        with suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind((LOOPBACK, port))
            other.bind((LOOPBACK, port + _BUS))
            return port
