"""Faults of Redis. Where logs get lost they are restored from the ledger, with the same ids and no hints."""

from __future__ import annotations

import asyncio
import random
import signal

from redis.exceptions import ResponseError

from projections import strategies
from tests.chaos.faults.fault import Target, faults
from tests.chaos.world import World


async def redis_restarted(world: World, rng: random.Random) -> None:
    """Redis is stopped, and is back after up to some seconds with all its data."""
    await asyncio.to_thread(world.redis.stop)
    await asyncio.sleep(rng.choice([0, 0, 2, 5]))
    await asyncio.to_thread(world.redis.start)


async def redis_killed(world: World, rng: random.Random) -> None:
    """Redis is killed, and is back at once with all its data."""
    await asyncio.to_thread(world.redis.kill)
    await asyncio.to_thread(world.redis.start)


async def redis_frozen(world: World, rng: random.Random) -> None:
    """Redis stands still, sometimes for longer than its clients wait, and then goes on."""
    world.redis.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(rng.choice([1, 3, 6, 12]))
    finally:
        world.redis.send_signal(signal.SIGCONT)


async def redis_restarted_empty(world: World, rng: random.Random) -> None:
    """Redis is killed and comes back without any data."""
    async with world.producers.held_up():
        await asyncio.to_thread(world.redis.kill)
        await asyncio.to_thread(world.redis.wipe)
        await asyncio.to_thread(world.redis.start)
        await _restore(world, rng)


async def redis_restarted_older(world: World, rng: random.Random) -> None:
    """Redis is killed and comes back as it was some time ago: logs and feeds have lost their tails."""
    async with world.producers.held_up():
        await asyncio.to_thread(world.redis.kill)
        await asyncio.to_thread(world.redis.forget, rng.choice([0.01, 0.1, 0.5]))
        await asyncio.to_thread(world.redis.start)
        await _restore(world, rng)


async def redis_flushed(world: World, rng: random.Random) -> None:
    """Somebody empties Redis under everybody's hands."""
    async with world.producers.held_up(), world.redis.session() as redis:
        await redis.flushall()
        await _restore(world, rng)


async def _restore(world: World, rng: random.Random) -> None:
    """Bring the logs back after the replicas had time to see that they are gone, or none."""
    await asyncio.sleep(rng.choice([0, 1, 3]))
    async with world.redis.session() as redis:
        await world.ledger.restore(redis, world.keys)


async def group_destroyed(world: World, rng: random.Random) -> None:
    """The consumer group is destroyed, in one partition or in all."""
    partitions = list(range(world.keys.partitions))
    async with world.redis.session() as redis:
        for partition in rng.choice([partitions, rng.sample(partitions, 1)]):
            feed = world.keys.feed(partition)
            if await redis.exists(feed):
                await redis.xgroup_destroy(feed, strategies.name)


async def consumers_deleted(world: World, rng: random.Random) -> None:
    """Consumers are deleted from the group, and what is pending for them is thrown away."""
    async with world.redis.session() as redis:
        for partition in range(world.keys.partitions):
            feed = world.keys.feed(partition)
            try:
                consumers = await redis.xinfo_consumers(feed, strategies.name)
            except ResponseError:
                continue  # No group there, since another fault took it.
            for consumer in consumers:
                if rng.random() < 0.5:
                    await redis.xgroup_delconsumer(feed, strategies.name, consumer["name"])


async def feeds_deleted(world: World, rng: random.Random) -> None:
    """The feed is deleted, in all partitions."""
    async with world.redis.session() as redis:
        await redis.delete(*(world.keys.feed(p) for p in range(world.keys.partitions)))


async def clients_killed(world: World, rng: random.Random) -> None:
    """Redis hangs up on all its clients, producers included."""
    async with world.redis.session() as redis:
        await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


FAULTS = faults(
    Target.REDIS,
    redis_restarted,
    redis_killed,
    redis_frozen,
    redis_restarted_empty,
    redis_restarted_older,
    redis_flushed,
    group_destroyed,
    consumers_deleted,
    feeds_deleted,
    clients_killed,
)
