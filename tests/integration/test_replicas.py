"""What replicas tell of themselves, whatever version of the worker wrote it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from tests.replicas import report
from worker import Keys
from worker.replicas import Replicas


@pytest.fixture
def replicas(client: Redis, keys: Keys) -> Replicas:
    return Replicas(client, keys, "strategies")


async def test_the_last_report_of_every_replica_is_kept(replicas: Replicas) -> None:
    await replicas.report(replace(report("b"), batches=1))
    await replicas.report(report("a"))
    await replicas.report(replace(report("b"), batches=2))
    assert [(found.consumer, found.batches) for found in await replicas.all()] == [("a", 0), ("b", 2)]


async def test_replicas_that_are_silent_are_forgotten(replicas: Replicas) -> None:
    await replicas.report(report("alive"))
    await replicas.report(report("dead", seconds_ago=60))
    assert [found.alive for found in await replicas.all()] == [True, False]
    await replicas.remove_silent()
    assert [found.consumer for found in await replicas.all()] == ["alive"]


async def test_a_replica_that_stops_is_forgotten(replicas: Replicas) -> None:
    await replicas.report(report("a"))
    await replicas.remove([])
    await replicas.remove(["a", "unknown"])
    assert await replicas.all() == []


@pytest.mark.parametrize("stored", [b'{"consumer": "new", "something": "else"}', b"{}"])
async def test_a_report_of_another_version_does_no_harm(
    redis: Redis, keys: Keys, replicas: Replicas, stored: bytes
) -> None:
    await redis.hset(keys.replicas("strategies"), "new", stored)
    await replicas.report(report("a"))
    assert [found.consumer for found in await replicas.all()] == ["a"]
    await replicas.remove_silent()


async def test_projections_keep_their_replicas_apart(client: Redis, keys: Keys, replicas: Replicas) -> None:
    await replicas.report(report("a"))
    assert await Replicas(client, keys, "other").all() == []
