"""Live chats at a steady rate: how long checkpoint events take from XADD to the row that shows them.

The naive baseline is done when its request ends; who reads would not have to wait, but who writes does.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from redis.asyncio import Redis

from tests.benchmarks.baselines.naive import Sessions, serve
from tests.benchmarks.baselines.statements import create_rows, session_maker
from tests.benchmarks.bench import WORKER, WORKER_COMMAND, Bench, Scenario, under_measurement
from tests.benchmarks.live_load import CHECKPOINTS, STREAMS, LiveLoad, chat_events
from tests.benchmarks.measurement import Figure, Name, Run, Target
from tests.benchmarks.meter import Meter, spent
from tests.benchmarks.workload import RawEvent
from tests.benchmarks.world import World

NAIVE = "naive"
P50, P99, CORES = "p50", "p99", "share of a core"
SLOW, FAST = 500, 5_000
"""Events a second."""
SECONDS = 20
WARM_UP_SECONDS = 2


class Live:
    """Latencies at one rate, and how busy those were who came to them."""

    def __init__(self, bench: Bench, rate: int) -> None:
        self.rate = rate
        self.seconds = max(WARM_UP_SECONDS, bench.scaled(SECONDS))
        self.runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
        self._bench = bench

    async def by_worker(self) -> Run:
        """A worker with default settings."""
        async with self._bench.world() as world, under_measurement(world, [WORKER_COMMAND]) as worker:
            load = LiveLoad(world, self.rate)
            await asyncio.to_thread(load.run, WARM_UP_SECONDS)
            cpu, began = await worker.cpu(), time.perf_counter()
            latencies = await asyncio.to_thread(load.run, self.seconds)
            return self._note(WORKER, latencies, spent(cpu, await worker.cpu()), began)

    async def naive(self) -> Run:
        """Requests that update their row before they end."""
        async with self._bench.world() as world:
            meter, own = await Meter.of(world), {NAIVE: [os.getpid()]}
            redis, sessions = Redis.from_url(world.redis_url), session_maker(world.database_url)
            async with sessions() as session:
                await create_rows(session, [f"live-{number}" for number in range(STREAMS)])
                await session.commit()
            await self._serve(world, redis, sessions, WARM_UP_SECONDS)
            cpu, began = await meter.read(own), time.perf_counter()
            latencies = await self._serve(world, redis, sessions, self.seconds)
            run = self._note(NAIVE, latencies, spent(cpu, await meter.read(own)), began)
            await redis.aclose()
            await sessions.kw["bind"].dispose()
            return run

    async def _serve(self, world: World, redis: Redis, sessions: Sessions, seconds: float) -> list[float]:
        """A request for each event when it is due; seconds that those with checkpoint events took."""
        latencies: list[float] = []

        async def request(stream: int, event: RawEvent) -> None:
            began, stream_id = time.perf_counter(), f"live-{stream}"
            await serve(redis, sessions, world.keys.log(stream_id), stream_id, event)
            if event[1] in CHECKPOINTS:
                latencies.append(time.perf_counter() - began)

        events, began = chat_events(seed=7), time.perf_counter()
        async with asyncio.TaskGroup() as requests:
            for at in range(int(self.rate * seconds)):
                await asyncio.sleep(began + at / self.rate - time.perf_counter())
                requests.create_task(request(*next(events)))
        return latencies

    def _note(self, subject: str, latencies: Sequence[float], cpu: Mapping[str, float], began: float) -> Run:
        seconds = time.perf_counter() - began
        hundredths = statistics.quantiles(latencies, n=100)
        for what, value in ((P50, hundredths[49] * 1000), (P99, hundredths[98] * 1000)):
            self.runs[subject, what].append(Run(value, cpu, seconds))
        self.runs[subject, CORES].append(Run(cpu[subject] / seconds))
        return self.runs[subject, P99][-1]


def name(rate: int) -> str:
    return f"live, {rate:,} events/s"


async def measure(bench: Bench) -> list[Figure]:
    """Both rates; the naive baseline cannot do the higher one."""
    figures: list[Figure] = []
    for rate in (SLOW, FAST):
        live = Live(bench, rate)
        subjects = {WORKER: live.by_worker} | ({NAIVE: live.naive} if rate == SLOW else {})
        await bench.in_turns(f"{name(rate)}, {P99} in ms", subjects)
        figures += [
            Figure(name(rate), f"{subject}, {what}", "cores" if what == CORES else "ms", runs)
            for (subject, what), runs in live.runs.items()
        ]
    return figures


def _at_most(rate: int, what: str, most: float) -> Target:
    return Target(Name(name(rate), f"{WORKER}, {what}"), at_most=most)


SCENARIO = Scenario(
    "live",
    measure,
    [_at_most(SLOW, P50, 2), _at_most(SLOW, P99, 6), _at_most(SLOW, CORES, 0.15), _at_most(FAST, P99, 25)],
)
