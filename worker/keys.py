"""Where things lie in Redis: the names of logs, feed partitions and the worker's own keys."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Final

_OWN: Final = ("feed:", "worker:")
"""What the names of all other keys begin with, after the deployment's prefix."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of all keys, and how streams spread over feed partitions.

    Producers and workers of one deployment must agree on all of it. Producers in other languages compute a
    stream's partition as ``crc32(stream id in UTF-8) mod partitions`` (the CRC of zlib and gzip). The feed
    is capped at about ``feed_max_length`` hints a partition, so that no stopped worker can fill Redis.

    ``prefix`` is the deployment's. ``logs`` comes after it in the names of logs: projections may have logs
    of their own, and ``Projection.keys`` gives the keys of one. The feed is one for all, so that a hint may
    speak of another log of the same id, which costs a look.

    ``on_cluster`` is for Redis Cluster. Logs are named as ever and spread over its nodes. The feed and the
    worker's own keys must lie together, so that what their names have in common stands in braces:
    ``{feed}:0`` for ``feed:0``, and with the prefix ``app:`` ``{app:feed}:0``. Who emits with a client of a
    cluster need not set it.

    Raises ValueError where logs could not be told from the worker's own keys, or would all lie together.
    """

    prefix: str = ""
    partitions: int = 8
    feed_max_length: int = 1_000_000
    logs: str = "stream:"
    on_cluster: bool = False

    def __post_init__(self) -> None:
        if not self.logs:
            raise ValueError("logs is empty, so that every key would be a log; give a prefix like 'orders:'.")
        if not self.logs.isprintable():
            raise ValueError(f"logs {self.logs!r} holds what no key prefix should; give one like 'orders:'.")
        if own := [name for name in _OWN if name.startswith(self.logs) or self.logs.startswith(name)]:
            raise ValueError(
                f"logs {self.logs!r} cannot be told from the worker's own keys, which begin with {own[0]!r}; "
                "give another prefix, like 'orders:'."
            )
        if self.on_cluster and set(self.prefix) & set("{}"):
            raise ValueError(
                f"the key prefix {self.prefix!r} holds braces, which would put all logs of a Redis Cluster "
                "on one node; give one without."
            )

    @property
    def log_prefix(self) -> str:
        return f"{self.prefix}{self.logs}"

    def log(self, stream_id: str) -> str:
        return f"{self.prefix}{self.logs}{stream_id}"

    @property
    def _feed(self) -> str:
        return f"{{{self.prefix}feed}}" if self.on_cluster else f"{self.prefix}feed"

    def feed(self, partition: int) -> str:
        return f"{self._feed}:{partition}"

    @property
    def feed_partitions(self) -> str:
        """Holds the number of partitions that the deployment has agreed on.

        All of the worker's own keys lie in its slot on a cluster.
        """
        return f"{self._feed}:partitions"

    @property
    def feed_partitions_otherwise(self) -> str:
        """What the same key is called by whoever is wrong about ``on_cluster``."""
        return replace(self, on_cluster=not self.on_cluster).feed_partitions

    def _own(self, projection: str, what: str) -> str:
        """A key of the worker's own, for one projection."""
        return f"{self._feed if self.on_cluster else self.prefix}worker:{projection}:{what}"

    def replicas(self, projection: str) -> str:
        """A hash: each replica of a projection's group to its latest report, as JSON."""
        return self._own(projection, "replicas")

    def in_flight(self, projection: str) -> str:
        """A hash: each replica to the streams that it is projecting, as JSON."""
        return self._own(projection, "in-flight")

    def suspects(self, projection: str) -> str:
        """A hash: streams to how many replicas have died projecting them."""
        return self._own(projection, "suspects")

    def diverged(self, projection: str) -> str:
        """A hash: diverged streams to the positions that their logs no longer hold."""
        return self._own(projection, "diverged")

    def live_replicas(self, projection: str) -> str:
        """A sorted set: each replica of a projection's group to the time until which it counts as alive."""
        return self._own(projection, "live")

    def leases(self, projection: str) -> str:
        """A hash: feed partitions to the replicas that read them."""
        return self._own(projection, "leases")

    def versions(self, projection: str) -> str:
        """A hash: each replica to the version of the projection that it runs."""
        return self._own(projection, "versions")

    def given(self, projection: str) -> str:
        """A set: replicas that others have given hints to, until they notice."""
        return self._own(projection, "given")

    def sweep_lease(self, projection: str) -> str:
        return self._own(projection, "sweep-lease")

    def sweep_report(self, projection: str) -> str:
        """What the last finished sweep found, as JSON."""
        return self._own(projection, "sweep")

    def moved(self, projection: str) -> str:
        """The channel on which workers tell which streams may have moved.

        Channels know of no database number: deployments that differ in nothing else hear each other, which
        only costs a look. Nor do they lie anywhere: all nodes of a cluster hear of them.
        """
        return f"{self.prefix}worker:{projection}:moved"

    def partition(self, stream_id: str) -> int:
        """The feed partition that carries this stream's hints."""
        return zlib.crc32(stream_id.encode()) % self.partitions
