"""`check` looks at every primary of a cluster."""

from __future__ import annotations

import asyncio

from tests.checking import above_info, look, names, said
from tests.clusters import OwnCluster
from tests.waiting import block_until
from worker import Keys
from worker.check import Report

KEYS = Keys("app:", on_cluster=True)
LOCAL = "127.0.0.1"


async def look_at(cluster: OwnCluster) -> Report:
    return await look(cluster.url, settings={"redis_url": cluster.url, "key_prefix": KEYS.prefix})


async def test_nodes_that_are_not_like_the_others_are_named(cluster: OwnCluster) -> None:
    before = await look_at(cluster)
    odd = cluster.other_than(cluster.primary_of(KEYS.feed(0)))
    odd.do("CONFIG SET", "maxmemory-policy", "allkeys-lru")
    odd.do("ACL SETUSER", "default", "-xinfo")
    try:
        after = await look_at(cluster)
    finally:
        odd.do("CONFIG SET", "maxmemory-policy", "noeviction")
        odd.do("ACL SETUSER", "default", "+@all")
    assert names(after) - names(before) == {"redis-may-evict", "redis-right-missing"}
    assert said(after, "redis-may-evict").startswith(f"Of node {LOCAL}:{odd.port}: maxmemory-policy is")
    assert said(after, "redis-right-missing").startswith(f"Of node {LOCAL}:{odd.port}: ")
    assert "redis-keeps-nothing" in above_info(before)
    assert LOCAL not in said(before, "redis-keeps-nothing")  # It is true of all of them.


async def test_primaries_without_replicas_and_then_away_are_found(cluster: OwnCluster) -> None:
    assert not {"redis-cluster-fails", "redis-cluster-no-replica"} & names(await look_at(cluster))
    primary = cluster.other_than(cluster.primary_of(KEYS.feed(0)))
    cluster.kill_replica(primary)
    others = [node for node in cluster.nodes if node.runs]

    def is_alone() -> bool:
        return all((primary.port,) in [ports for *_, ports in node.slots()] for node in others)

    await asyncio.to_thread(block_until, is_alone, "all to know that the replica is away", 10)
    report = await look_at(cluster)
    assert f"Node {LOCAL}:{primary.port} has no replica." in said(report, "redis-cluster-no-replica")
    primary.kill()
    report = await look_at(cluster)
    assert f"Node {LOCAL}:{primary.port} does not answer" in said(report, "redis-cluster-fails")
    primary.start()  # It has forgotten everything, as has what others had of it.
    cluster.settle()
    assert "redis-cluster-fails" not in names(await look_at(cluster))


async def test_a_cluster_that_is_away_is_one_finding() -> None:
    url = "redis+cluster://127.0.0.1:1"
    report = await look(url, settings={"redis_url": url})
    assert "redis-unreachable" in names(report)
    assert not any(name.startswith("redis-cluster") for name in names(report))
