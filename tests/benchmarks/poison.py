"""What one stream that cannot get on costs the others: ``python -m tests.benchmarks.poison``.

The same backlog is projected with and without poison in one of its streams, in turns, each time into an empty
database by one worker in a process of its own. A run ends when every other row stands where it must.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import time
from typing import Any

from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.acceptance.commands import running, worker_environment
from tests.backlog import Backlog
from tests.servers import RunningServers, running_servers
from tests.waiting import wait_until
from worker import Keys
from worker.database import make_engine, parse_database_url
from worker.testing.servers import Databases

POISONED = "chat-0"
RUN_SECONDS = 300

KINDS: dict[str, dict[Any, Any]] = {
    "none": {},
    "an undecodable event": {"type": "user_message", "data": "nonsense"},
    "a handler that fails": {"type": "poison", "data": "{}"},
    "a row that PostgreSQL refuses": {},
}
"""What is wrong with the poisoned stream, and the entry that comes first in its log."""

_REFUSE = f"ALTER TABLE stream_projections ADD CHECK (stream_id <> '{POISONED}' OR message_count < 1)"
_REACHED = text("""
    SELECT count(*) FROM stream_projections AS t
    JOIN unnest(CAST(:streams AS text[]), CAST(:ends AS text[])) AS e(stream_id, position)
      ON t.stream_id = e.stream_id AND t.last_event_id = e.position""")


class Bench:
    """Servers, and the size of the backlog."""

    def __init__(self, servers: RunningServers, databases: Databases, events: int, streams: int) -> None:
        self._servers = servers
        self._databases = databases
        self._events = events
        self._streams = streams

    async def measure(self, kind: str) -> float:
        """Project the backlog once; events a second."""
        url = await asyncio.to_thread(self._databases.create_migrated)
        keys = Keys(f"b{secrets.token_hex(4)}:")
        redis = Redis.from_url(self._servers.redis_url)
        engine = make_engine(parse_database_url(url), pool_size=1, application_name="benchmark")
        try:
            if entry := KINDS[kind]:
                await redis.xadd(keys.log(POISONED), {"op": "", **entry}, id="1-0")
            if kind == "a row that PostgreSQL refuses":
                async with engine.begin() as connection:
                    await connection.execute(text(_REFUSE))
            backlog = Backlog(self._streams, self._events)
            await backlog.append(redis, keys)
            env = worker_environment(self._servers.redis_url, url, keys.prefix)
            env["WORKER_PROJECTIONS"] = "tests.benchmarks.failing"
            with running("run", env=env) as worker:
                await wait_until(lambda: "started" in worker.log, "the worker to start", 30)
                started = time.monotonic()
                await wait_until(lambda: _is_done(engine, backlog), "all other streams", RUN_SECONDS)
                seconds = time.monotonic() - started
                await asyncio.to_thread(worker.stop)
            return backlog.events / seconds
        finally:
            async for key in redis.scan_iter(f"{keys.prefix}*", count=1000):
                await redis.unlink(key)
            await redis.aclose()
            await engine.dispose()
            await asyncio.to_thread(self._databases.drop, url)


async def _is_done(engine: AsyncEngine, backlog: Backlog) -> bool:
    others = {stream_id: end for stream_id, end in backlog.last.items() if stream_id != POISONED}
    async with engine.connect() as connection:
        reached = await connection.execute(_REACHED, {"streams": list(others), "ends": list(others.values())})
        return bool(reached.scalar() == len(others))


async def run(events: int, streams: int, runs: int) -> Table:
    """Measure all kinds in turns."""
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with running_servers() as servers:
        databases = Databases(servers.database_url)
        bench = Bench(servers, databases, events, streams)
        await bench.measure("none")  # to warm up
        for _ in range(runs):
            for kind, found in rates.items():
                found.append(await bench.measure(kind))
        databases.close()
    return as_table(f"{events:,} events over {streams:,} streams, {runs} runs each", rates)


def as_table(title: str, rates: dict[str, list[float]]) -> Table:
    """Medians, ranges, and ratios of medians to what is measured without poison."""
    table = Table(title=title)
    for heading in ("poison in one stream", "events/s, median", "range", "ratio to none"):
        table.add_column(heading, justify="left" if heading.startswith("poison") else "right")
    clean = statistics.median(rates["none"])
    for kind, found in rates.items():
        median = statistics.median(found)
        bounds = f"{min(found):,.0f} to {max(found):,.0f}"
        table.add_row(kind, f"{median:,.0f}", bounds, f"{median / clean:.2f}")
    return table


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    Console().print(asyncio.run(run(options.events, options.streams, options.runs)))


if __name__ == "__main__":
    main()
