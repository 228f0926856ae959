"""What reading one's own writes takes, and costs workers: ``python -m tests.benchmarks.own_writes``.

First, producers emit and wait until their event is in its row, one after the other and many at once, woken by
messages or only polling. Then the same backlog is worked off by a worker that sends these messages and by one
that does not, in turns, while somebody listens. That is measured in processor time of the worker, which says
more than the clock where the machine is busy: the messages cost no round trip.
"""

from __future__ import annotations

import argparse
import asyncio
import operator
import secrets
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import psutil
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from rich.console import Console
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.acceptance.commands import RunningCommand, running, worker_environment
from tests.backlog import Backlog
from tests.servers import RunningServers, running_servers
from tests.waiting import wait_until
from worker import Keys, emit, wait_until_projected
from worker.database import make_engine, parse_database_url
from worker.testing.servers import Databases

WAIT_SECONDS = 60
RUN_SECONDS = 300
MODULES = {"with messages": "worker", "without": "tests.benchmarks.silent_worker"}


@dataclass(frozen=True, slots=True)
class World:
    """A database, a key prefix, and the environment of workers on them."""

    redis: Redis
    engine: AsyncEngine
    keys: Keys
    env: dict[str, str]


@asynccontextmanager
async def world(servers: RunningServers, databases: Databases) -> AsyncIterator[World]:
    """Empty at first, and gone afterwards."""
    url = await asyncio.to_thread(databases.create_migrated)
    keys = Keys(f"b{secrets.token_hex(4)}:")
    # Hundreds emit at once: they take turns.
    redis = Redis.from_pool(BlockingConnectionPool.from_url(servers.redis_url, timeout=None))
    engine = make_engine(parse_database_url(url), pool_size=1, application_name="benchmark")
    try:
        yield World(redis, engine, keys, worker_environment(servers.redis_url, url, keys.prefix))
    finally:
        async for key in redis.scan_iter(f"{keys.prefix}*", count=1000):
            await redis.unlink(key)
        await redis.aclose()
        await engine.dispose()
        await asyncio.to_thread(databases.drop, url)


async def wait_once(world: World, stream_id: str, *, messages: bool) -> float:
    """Emit and wait; milliseconds from one to the other's end."""
    started = time.monotonic()
    event_id = await emit(world.redis, stream_id, "", "user_message", {"content": "?"}, keys=world.keys)
    redis = world.redis if messages else None
    await wait_until_projected(
        world.engine, stream_id, event_id, WAIT_SECONDS, projection=strategies, redis=redis, keys=world.keys
    )
    return (time.monotonic() - started) * 1000


async def measure_waits(world: World, producers: int, waits: int, *, messages: bool) -> list[float]:
    """So many producers, each with a stream of its own, wait so many times together."""

    async def produce(number: int) -> list[float]:
        return [
            await wait_once(world, f"chat-{number}", messages=messages) for _ in range(waits // producers)
        ]

    found = await asyncio.gather(*map(produce, range(producers)))
    return [milliseconds for of_producer in found for milliseconds in of_producer]


async def latencies(servers: RunningServers, databases: Databases, waits: int) -> Table:
    """Milliseconds from emit to the end of the wait."""
    table = Table(title="From emit to the end of the wait, in milliseconds")
    for heading in ("producers at once", "woken by", "median", "p99", "longest"):
        table.add_column(heading, justify="right")
    async with world(servers, databases) as at:
        with running("run", env=at.env) as worker:
            await wait_until(lambda: "started" in worker.log, "the worker to start", 30)
            await measure_waits(at, 10, 100, messages=True)  # to warm up
            for producers in (1, 20, 500):
                for messages in (True, False):
                    found = await measure_waits(at, producers, max(waits, producers), messages=messages)
                    centiles = statistics.quantiles(found, n=100)
                    figures = [f"{value:.1f}" for value in (centiles[49], centiles[98], max(found))]
                    table.add_row(f"{producers}", "messages" if messages else "polls", *figures)
            await asyncio.to_thread(worker.stop)
    return table


async def work_off(servers: RunningServers, databases: Databases, backlog: Backlog, module: str) -> float:
    """Let a worker work off the backlog while somebody listens; events a second of its processor time."""
    async with world(servers, databases) as at, at.redis.pubsub() as subscription:
        await subscription.subscribe(at.keys.moved(strategies.name))
        listening = asyncio.create_task(_listen(subscription))
        await backlog.append(at.redis, at.keys)
        with running("run", env=at.env, module=module) as worker:
            await wait_until(lambda: "started" in worker.log, "the worker to start", 30)
            started = _processor_seconds(worker)
            await wait_until(partial(_is_done, at.engine, backlog), "the backlog", RUN_SECONDS)
            seconds = _processor_seconds(worker) - started
            await asyncio.to_thread(worker.stop)
        listening.cancel()
        await asyncio.wait({listening})
    return backlog.events / seconds


def _processor_seconds(worker: RunningCommand) -> float:
    times = psutil.Process(worker.process.pid).cpu_times()
    return float(times.user + times.system)


async def _listen(subscription: PubSub) -> None:
    while True:
        await subscription.get_message(timeout=None)


async def _is_done(engine: AsyncEngine, backlog: Backlog) -> bool:
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT stream_id, last_event_id FROM stream_projections"))
        return {row.stream_id: row.last_event_id for row in rows} == backlog.last


async def costs(servers: RunningServers, databases: Databases, options: argparse.Namespace) -> Table:
    """What the messages cost a worker on a backlog."""
    rates: dict[str, list[float]] = {kind: [] for kind in MODULES}
    for run in range(options.runs + 1):
        for kind, module in MODULES.items():
            backlog = Backlog(options.streams, options.events)
            rate = await work_off(servers, databases, backlog, module)
            if run:  # The first is to warm up.
                rates[kind].append(rate)
    table = Table(
        title=f"{options.events:,} events over {options.streams:,} streams, {options.runs} runs each"
    )
    for heading in ("worker", "events/CPU s, median", "range", "ratio to without"):
        table.add_column(heading, justify="right")
    for kind, found in rates.items():
        bounds = f"{min(found):,.0f} to {max(found):,.0f}"
        ratio = statistics.median(map(operator.truediv, found, rates["without"]))
        table.add_row(kind, f"{statistics.median(found):,.0f}", bounds, f"{ratio:.3f}")
    return table


async def run(options: argparse.Namespace) -> list[Table]:
    """Measure both."""
    with running_servers() as servers:
        databases = Databases(servers.database_url)
        try:
            return [
                await latencies(servers, databases, options.waits),
                await costs(servers, databases, options),
            ]
        finally:
            databases.close()


def main() -> None:
    """Measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--waits", type=int, default=1_000, help="how many, each time")
    parser.add_argument("--events", type=int, default=200_000, help="how many the backlog has")
    parser.add_argument("--streams", type=int, default=1_000, help="how many streams they are spread over")
    parser.add_argument("--runs", type=int, default=7)
    console = Console()
    for table in asyncio.run(run(parser.parse_args())):
        console.print(table)


if __name__ == "__main__":
    main()
