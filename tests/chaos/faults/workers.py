"""Faults of the replicas."""

from __future__ import annotations

import asyncio
import random
import signal

from tests.chaos.faults.fault import Target, faults
from tests.chaos.world import World


async def worker_killed(world: World, rng: random.Random) -> None:
    """A replica is killed without warning, and replaced at once."""
    await _replace(world, world.fleet.any_place(rng), signal.SIGKILL)


async def worker_terminated(world: World, rng: random.Random) -> None:
    """A replica is stopped as a service manager does it, and replaced."""
    await _replace(world, world.fleet.any_place(rng), signal.SIGTERM)


async def all_workers_killed(world: World, rng: random.Random) -> None:
    """Every replica is killed at once, and after a while all are back."""
    places = list(world.fleet.replicas)
    await asyncio.gather(*(world.fleet.end(place, signal.SIGKILL) for place in places))
    await asyncio.sleep(rng.uniform(0, 2))
    for place in places:
        world.fleet.start(place)


async def worker_frozen(world: World, rng: random.Random) -> None:
    """A replica stands still, for longer than leases and sometimes than every timeout, and then goes on."""
    replica = world.fleet.replicas[world.fleet.any_place(rng)]
    replica.process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(rng.choice([1, 3, 6, 12, 16]))
    finally:
        replica.process.send_signal(signal.SIGCONT)


async def workers_scaled_down(world: World, rng: random.Random) -> None:
    """Half of the replicas are stopped, and come back after a while."""
    places = rng.sample(list(world.fleet.replicas), len(world.fleet.replicas) // 2)
    await asyncio.gather(*(world.fleet.end(place, signal.SIGTERM) for place in places))
    await asyncio.sleep(rng.uniform(1, 6))
    for place in places:
        world.fleet.start(place)


async def _replace(world: World, place: int, signum: signal.Signals) -> None:
    await world.fleet.end(place, signum)
    world.fleet.start(place)


FAULTS = faults(
    Target.WORKERS, worker_killed, worker_terminated, all_workers_killed, worker_frozen, workers_scaled_down
)
