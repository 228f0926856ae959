"""Faults between the replicas and either server, which the proxies cause."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial

from tests.chaos.faults.fault import Fault, Target
from tests.chaos.world import World
from tests.proxy import TcpProxy

NetworkAction = Callable[[TcpProxy, random.Random], Awaitable[None]]


async def connections_cut(proxy: TcpProxy, rng: random.Random) -> None:
    """Every connection breaks, now and then several times in a row."""
    for _ in range(rng.choice([1, 1, 5])):
        proxy.cut()
        await asyncio.sleep(rng.uniform(0, 0.3))


async def connections_refused(proxy: TcpProxy, rng: random.Random) -> None:
    """Every connection breaks, and for some seconds there are no new ones."""
    proxy.refuse = True
    proxy.cut()
    try:
        await asyncio.sleep(rng.uniform(1, 6))
    finally:
        proxy.refuse = False


async def stalled(proxy: TcpProxy, rng: random.Random) -> None:
    """Nothing gets through in either direction, and nobody hangs up; at last it all arrives, or is cut."""
    await _stalled(proxy, rng, requests=True)


async def replies_stalled(proxy: TcpProxy, rng: random.Random) -> None:
    """The server does what it is told, but its replies arrive late, or never."""
    await _stalled(proxy, rng, requests=False)


async def _stalled(proxy: TcpProxy, rng: random.Random, *, requests: bool) -> None:
    proxy.stall(requests=requests)
    try:
        await asyncio.sleep(rng.choice([0.5, 2, 5, 12]))
        if rng.random() < 0.5:
            proxy.cut()
    finally:
        proxy.flow()


async def replies_lost(proxy: TcpProxy, rng: random.Random) -> None:
    """The server does what it is told, but in place of the reply the connection ends."""
    await _lost(proxy, b"", rng.uniform(0.1, 3))


async def commit_replies_lost(proxy: TcpProxy, rng: random.Random) -> None:
    """The same for commits: nobody learns whether they took place."""
    await _lost(proxy, b"COMMIT", rng.uniform(1, 5))


async def read_replies_lost(proxy: TcpProxy, rng: random.Random) -> None:
    """The same for reads of the feed: hints are delivered and never arrive."""
    await _lost(proxy, b"XREADGROUP", rng.uniform(1, 5))


async def _lost(proxy: TcpProxy, after: bytes, seconds: float) -> None:
    proxy.lose = after
    try:
        await asyncio.sleep(seconds)
    finally:
        proxy.lose = None


_EVERYWHERE = (connections_cut, connections_refused, stalled, replies_stalled, replies_lost)


async def _to_redis(action: NetworkAction, world: World, rng: random.Random) -> None:
    await action(world.redis.proxy, rng)


async def _to_postgresql(action: NetworkAction, world: World, rng: random.Random) -> None:
    await action(world.postgresql.proxy, rng)


FAULTS = (
    *(
        Fault(f"redis_{action.__name__}", Target.REDIS_NETWORK, partial(_to_redis, action))
        for action in (*_EVERYWHERE, read_replies_lost)
    ),
    *(
        Fault(f"postgresql_{action.__name__}", Target.POSTGRESQL_NETWORK, partial(_to_postgresql, action))
        for action in (*_EVERYWHERE, commit_replies_lost)
    ),
)
