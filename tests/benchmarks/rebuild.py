"""Rebuilding under load, and by several processes: ``python -m tests.benchmarks.rebuild``.

First, a projection is raised to version 2 and rebuilt while producers write; a reader polls random rows all
the time, and every value that it saw must be the fold of the old version or of the new one. It is rebuilt
again, to measure live projection beside a rebuild that has nothing to do with it, with and without yielding.
The table must be that of the reference model in the end. Then, without any load, one process rebuilds
everything, and two share it, in turns. Exit code 1 says that something was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle

from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from projections.simulation import SimulatedEvent, simulate_conversation
from tests.acceptance.commands import running, worker_environment
from tests.backlog import WDK_IDS, Backlog
from tests.benchmarks.rebuild_reader import Reader
from tests.later_strategies import strategies as second
from tests.logs import log_of
from tests.reference.model import single_reader
from tests.servers import RunningServers, running_servers
from tests.tables import differences, read_table
from tests.versions import WEIGHT
from tests.waiting import wait_until
from worker import Keys, emit
from worker.app import make_log
from worker.database import make_engine, parse_database_url
from worker.demo.progress import Latencies, Observer, Progress
from worker.redis_client import make_client
from worker.settings import Settings
from worker.store import Store
from worker.testing.servers import Databases
from worker.waiting import wait_for

EVENTS_A_SECOND = 200
PATIENCE_SECONDS = 600
SECOND = {"WORKER_PROJECTIONS": "tests.later_strategies"}


@dataclass(frozen=True, slots=True)
class Phase:
    """What a reader of PostgreSQL waited for live events meanwhile, and what the rebuild told."""

    name: str
    latencies: Latencies
    report: Mapping[str, float] | None = None

    @property
    def right(self) -> bool:
        return self.report is None or self.report["rebuilt"] == self.report["streams"]


class Bench:
    """One database and one key prefix, with a backlog in it."""

    def __init__(self, redis: Redis, engine: AsyncEngine, env: dict[str, str], backlog: Backlog) -> None:
        self.redis = redis
        self.engine = engine
        self.env = env
        self.backlog = backlog
        self.keys = Keys(env["WORKER_KEY_PREFIX"])
        self.progress = Progress(strategies.types, strategies.types)  # Every event is looked for at once.
        self.streams = [f"chat-{number}" for number in range(backlog.streams)]

    async def produce(self, stop: asyncio.Event) -> None:
        """Append projected events to random streams, at a steady rate."""
        rng = random.Random(2)
        said = cycle(list(_projected_events(rng)))
        due = time.monotonic()
        while not await wait_for(stop, max(0.0, due - time.monotonic())):
            due = max(due + 1 / EVENTS_A_SECOND, time.monotonic() - 1)
            stream_id, event = rng.choice(self.streams), next(said)
            event_id = await emit(
                self.redis, stream_id, event.operation_id, event.type, event.data, keys=self.keys
            )
            self.progress.note_appended(stream_id, event_id, event.type, hinted=True)

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[None]:
        """Produce meanwhile."""
        stop = asyncio.Event()
        producing = asyncio.create_task(self.produce(stop))
        try:
            yield
        finally:
            stop.set()
            await producing

    async def is_held_by_one(self) -> bool:
        """Whether one worker reads all partitions."""
        holders = await self.redis.execute_command("HVALS", self.keys.leases(strategies.name))
        return len(holders) == self.keys.partitions and len(set(holders)) == 1

    async def rebuild(self, *arguments: str, processes: int = 1) -> Mapping[str, float]:
        """Rebuild everything in version 2 by so many processes; what they report, the same from all."""
        with ExitStack() as stack:
            started = [
                stack.enter_context(running("rebuild", "--json", *arguments, env=self.env | SECOND))
                for _ in range(processes)
            ]
            for process in started:
                await asyncio.to_thread(process.process.wait, PATIENCE_SECONDS)
                if process.process.returncode:
                    raise RuntimeError(process.log)
            reports = [json.loads(process.log.splitlines()[-1]) for process in started]
        assert all(report == reports[0] for report in reports)
        assert isinstance(reports[0], dict)
        return reports[0]

    async def phase(self, name: str, *arguments: str, seconds: float | None = None) -> Phase:
        """Measure live events for so many seconds, or while a rebuild runs."""
        before = len(self.progress.hinted_checkpoints)
        report = None
        if seconds is None:
            report = await self.rebuild(*arguments)
        else:
            await wait_for(asyncio.Event(), seconds)
        return Phase(name, Latencies(self.progress.hinted_checkpoints[before:]), report)

    async def stands_at_end(self) -> bool:
        async with self.engine.connect() as connection:
            rows = await connection.execute(text("SELECT stream_id, last_event_id FROM stream_projections"))
            return {row.stream_id: row.last_event_id for row in rows} == self.backlog.last

    async def table_differences(self) -> list[str]:
        """How the table differs from the reference model's, with messages counted as version 2 does."""
        logs = {stream_id: await log_of(self.redis, self.keys, stream_id) for stream_id in self.streams}
        expected = single_reader(logs)
        for stream_id, log in logs.items():
            types = Counter(fields[b"type"] for _, fields in log)
            expected[stream_id]["message_count"] = (
                WEIGHT * types[b"user_message"] + types[b"assistant_message"]
            )
        return differences(await read_table(self.engine), expected)


def _projected_events(rng: random.Random) -> Iterator[SimulatedEvent]:
    for event in simulate_conversation(rng, WDK_IDS, turns=200):
        if event.type in strategies.types:
            yield event


@asynccontextmanager
async def bench(servers: RunningServers, database_url: str, backlog: Backlog) -> AsyncIterator[Bench]:
    """A bench on these servers, cleared away in the end."""
    env = worker_environment(servers.redis_url, database_url, f"b{secrets.token_hex(4)}:")
    async with AsyncExitStack() as stack:
        redis = Redis.from_url(servers.redis_url)
        stack.push_async_callback(redis.aclose)
        engine = make_engine(parse_database_url(database_url), pool_size=5, application_name="benchmark")
        stack.push_async_callback(engine.dispose)
        on = Bench(redis, engine, env, backlog)
        await backlog.append(redis, on.keys)
        yield on
        async for key in redis.scan_iter(f"{on.keys.prefix}*", count=1000):
            await redis.unlink(key)


async def under_load(on: Bench, seconds: float) -> tuple[list[Phase], list[str], Reader]:
    """Raise the version and rebuild, with everything else going on; the phases, what is wrong, the reader."""
    stop, reader = asyncio.Event(), Reader(on.engine, strategies, on.streams)
    observer = Observer(Store(on.engine, strategies), on.progress)
    phases: list[Phase] = []
    with ExitStack() as workers:
        first = workers.enter_context(running("run", env=on.env))
        await wait_until(on.stands_at_end, "the backlog to be projected", PATIENCE_SECONDS)
        watching = [
            asyncio.create_task(observer.watch_checkpoints()),
            asyncio.create_task(observer.watch_all()),
        ]
        reading = asyncio.create_task(reader.run(stop))
        async with on.producing():
            phases.append(await on.phase("no rebuild, version 1", seconds=seconds))
        # Nobody produces meanwhile: that a handover takes a second or two is no fault of the rebuild.
        second_worker = workers.enter_context(running("run", env=on.env | SECOND))
        await wait_until(lambda: second_worker.says("started"), "version 2 to start", 60)
        await asyncio.to_thread(first.stop)
        await wait_until(on.is_held_by_one, "version 2 to read all partitions", 60)
        async with on.producing():
            phases.append(await on.phase("rebuild, to version 2"))
            phases.append(await on.phase("no rebuild, version 2", seconds=seconds))
            phases.append(await on.phase("rebuild, again"))
            phases.append(await on.phase("rebuild --no-yield", "--no-yield"))
            phases.append(await on.phase("no rebuild, once more", seconds=seconds))
        stop.set()
        await reading
        await wait_until(lambda: not on.progress.waiting, "live projection to catch up", 60)
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    settings = Settings(redis_url=on.env["REDIS_URL"], key_prefix=on.keys.prefix)
    redis = make_client(on.env["REDIS_URL"])
    wrong = await reader.wrong(make_log(settings, redis, strategies), {1: strategies, 2: second})
    await redis.aclose()
    return phases, wrong + await on.table_differences(), reader


async def shared(on: Bench, runs: int) -> tuple[dict[int, list[float]], list[str]]:
    """Seconds that one and two processes take for everything, and what is wrong in the end."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    await on.rebuild("--no-yield")
    for _ in range(runs):
        for processes, found in seconds.items():
            report = await on.rebuild("--no-yield", processes=processes)
            found.append(report["seconds"])
    return seconds, await on.table_differences()


def _print_phases(console: Console, phases: list[Phase]) -> None:
    table = Table(title=f"{EVENTS_A_SECOND} live events/s: from XADD to the row that a reader sees")
    for heading in (
        "meanwhile",
        "events",
        "p50",
        "p99",
        "worst",
        "rebuilt streams",
        "events folded",
        "seconds",
    ):
        table.add_column(heading, justify="left" if heading == "meanwhile" else "right")
    for phase in phases:
        times = [phase.latencies.percentile(percent) for percent in (50, 99, 100)]
        report = phase.report
        table.add_row(
            phase.name,
            f"{len(phase.latencies):,}",
            *(f"{seconds * 1000:.1f} ms" if seconds is not None else "-" for seconds in times),
            *(
                (f"{report['rebuilt']:,}", f"{report['events']:,}", f"{report['seconds']:.1f}")
                if report
                else ("-", "-", "-")
            ),
        )
    console.print(table)


async def run(options: argparse.Namespace) -> bool:
    """Do both parts and print; whether all was right."""
    console = Console(width=130)
    backlog = Backlog(options.streams, options.events)
    with running_servers() as servers:
        databases = Databases(servers.database_url)
        try:
            async with bench(servers, databases.create_migrated(), backlog) as on:
                console.print(
                    f"{backlog.streams:,} streams, {backlog.events:,} events, {backlog.projected:,} of them "
                    f"projected; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {servers}"
                )
                phases, wrong, reader = await under_load(on, options.seconds)
                _print_phases(console, phases)
                seen = sum(map(len, reader.seen.values()))
                console.print(f"A reader looked at {reader.looks:,} rows, {seen:,} of them different.")
                seconds, at_the_end = await shared(on, options.runs)
        finally:
            databases.close()
    one, two = (statistics.median(found) for found in seconds.values())
    told = {n: ", ".join(f"{s:.1f}" for s in found) for n, found in seconds.items()}
    console.print(f"One process: {told[1]} s. Two: {told[2]} s. Together {one / two:.2f} times as fast.")
    problems = wrong + at_the_end
    console.print(*problems[:20], f"{len(problems)} wrong values.", sep="\n")
    return not problems and all(phase.right for phase in phases)


def main() -> int:
    """Measure, print, and say whether all was right."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=15, help="how long to measure without a rebuild")
    parser.add_argument("--runs", type=int, default=3, help="rebuilds by one process, and by two")
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    options = parser.parse_args()
    if options.quick:
        options.streams, options.events, options.seconds, options.runs = 100, 20_000, 5, 1
    return 0 if asyncio.run(run(options)) else 1


if __name__ == "__main__":
    sys.exit(main())
