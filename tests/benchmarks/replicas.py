"""How replicas share a backlog: ``python -m tests.benchmarks.replicas``.

One, two and four workers, each a process, work off the same backlog. They have joined before, and stand still
until it is there; with ``--cold`` they are only started then, so that the first has it all in hand when the
others come. Every event must be applied once, that is: kept in one write. Handler calls beyond that are
redone work, of passes that were in vain; they must be below five in a hundred. Exit code 1 says that they are
not.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import redis as redis_py
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.acceptance.commands import RunningCommand, environment, running
from tests.backlog import Backlog
from tests.benchmarks.counting_worker import SAYS
from tests.servers import RunningServers, running_servers
from tests.waiting import wait_until
from worker import Keys
from worker.database import make_engine, parse_database_url
from worker.replicas import ReplicaReport, Replicas
from worker.testing.servers import Databases

START_SECONDS = 60
WORK_SECONDS = 600
MOST_REDONE = 0.05


@dataclass(frozen=True, slots=True)
class Measurement:
    """What so many replicas made of a backlog; ``applied`` for each of them, most first."""

    replicas: int
    seconds: float
    events: int
    projected: int
    handler_calls: int
    applied: Sequence[int]
    comparisons_lost: int

    @property
    def redone(self) -> int:
        return self.handler_calls - sum(self.applied)

    @property
    def redone_share(self) -> float:
        return self.redone / self.projected

    @property
    def right(self) -> bool:
        return sum(self.applied) == self.projected and self.redone_share < MOST_REDONE


async def measure(
    servers: RunningServers, database_url: str, backlog: Backlog, replicas: int, *, cold: bool
) -> Measurement:
    """Let so many workers work off a backlog, and see how they get on."""
    keys = Keys(f"benchmark-{secrets.token_hex(4)}:")
    env = environment(REDIS_URL=servers.redis_url, DATABASE_URL=database_url, WORKER_KEY_PREFIX=keys.prefix)
    engine = make_engine(parse_database_url(database_url), pool_size=1, application_name="benchmark")
    redis = Redis.from_url(servers.redis_url)
    if cold:
        await backlog.append(redis, keys)
    started = time.monotonic()
    with ExitStack() as stack:
        workers = [
            stack.enter_context(running("run", env=env, module="tests.benchmarks.counting_worker"))
            for _ in range(replicas)
        ]
        try:
            if not cold:
                await wait_until(partial(_all_have_joined, redis, keys, replicas), "workers", START_SECONDS)
                _signal(workers, signal.SIGSTOP)
                await backlog.append(redis, keys)
                started = time.monotonic()
                _signal(workers, signal.SIGCONT)
            await wait_until(partial(_is_projected, engine, backlog), "the backlog", WORK_SECONDS)
            seconds = time.monotonic() - started
            applied = partial(_reports, redis, keys, backlog)
            reports = await wait_until(applied, "reports of all that was applied")
            assert [worker.stop() for worker in workers] == [0] * replicas
        finally:
            await engine.dispose()
            await redis.aclose()
        calls = sum(int(worker.log.rsplit(SAYS, 1)[1].split()[0]) for worker in workers)
    with redis_py.Redis.from_url(servers.redis_url) as client:
        for key in client.scan_iter(match=f"{keys.prefix}*", count=1000):
            client.unlink(key)
    return Measurement(
        replicas,
        seconds,
        backlog.events,
        backlog.projected,
        calls,
        sorted((report.events_applied for report in reports), reverse=True),
        sum(report.comparisons_lost for report in reports),
    )


def _signal(workers: Sequence[RunningCommand], signum: signal.Signals) -> None:
    for worker in workers:
        worker.process.send_signal(signum)


async def _all_have_joined(redis: Redis, keys: Keys, replicas: int) -> bool:
    return len(await Replicas(redis, keys, strategies.name).all()) == replicas


async def _is_projected(engine: AsyncEngine, backlog: Backlog) -> bool:
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT stream_id, last_event_id FROM stream_projections"))
        return {row.stream_id: row.last_event_id for row in rows} == backlog.last


async def _reports(redis: Redis, keys: Keys, backlog: Backlog) -> list[ReplicaReport]:
    """The replicas' reports, once they tell of the whole backlog."""
    reports = await Replicas(redis, keys, strategies.name).all()
    return reports if sum(report.events_applied for report in reports) >= backlog.projected else []


def _table(measurements: Sequence[Measurement]) -> Table:
    first = measurements[0]
    table = Table(
        title=f"{first.events:,} events, {first.projected / first.events:.1%} of them projected",
        title_justify="left",
    )
    headings = ("replicas", "seconds", "events/s", "applied", "handler calls", "redone", "lost writes")
    for heading in (*headings, "applied by each"):
        table.add_column(heading, justify="right")
    for measured in measurements:
        table.add_row(
            f"{measured.replicas}",
            f"{measured.seconds:.2f}",
            f"{measured.events / measured.seconds:,.0f}",
            f"{sum(measured.applied):,}",
            f"{measured.handler_calls:,}",
            f"{measured.redone:,} ({measured.redone_share:.1%})",
            f"{measured.comparisons_lost:,}",
            " ".join(f"{applied:,}" for applied in measured.applied),
        )
    return table


async def _measure_all(options: argparse.Namespace) -> list[Measurement]:
    measurements = []
    with running_servers() as servers:
        databases = Databases(servers.database_url)
        try:
            for replicas in options.replicas:
                backlog = Backlog(options.streams, options.events, options.seed)
                url = databases.create_migrated()
                measurements.append(await measure(servers, url, backlog, replicas, cold=options.cold))
        finally:
            databases.close()
    return measurements


def main() -> int:
    """Measure, print the table, and say whether everything was applied once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4], help="how many, run by run")
    parser.add_argument("--events", type=int, default=50_000, help="how many are appended")
    parser.add_argument("--streams", type=int, default=500, help="how many streams they are spread over")
    parser.add_argument("--seed", type=int, default=0, help="the same one makes the same conversations")
    parser.add_argument("--cold", action="store_true", help="start the workers when the backlog is there")
    measurements = asyncio.run(_measure_all(parser.parse_args()))
    Console(width=110).print(_table(measurements))
    return 0 if all(measured.right for measured in measurements) else 1


if __name__ == "__main__":
    sys.exit(main())
