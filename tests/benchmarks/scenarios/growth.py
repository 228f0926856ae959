"""What an event costs as there are more events, streams and replicas, what idle streams cost, and memory.

All streams are chats. The time from a worker's start to its first row, about 50 ms, counts as its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from projections import strategies
from tests.benchmarks.bench import (
    END_SECONDS,
    WORKER,
    WORKER_COMMAND,
    Bench,
    Scenario,
    under_measurement,
    work_off,
)
from tests.benchmarks.measurement import Figure, Name, Run, Target
from tests.benchmarks.meter import spent
from tests.benchmarks.workload import Workload
from tests.benchmarks.world import World
from tests.waiting import wait_until
from worker.feed_backlog import feed_backlog
from worker.sweep import SweepReport

GROWTH, REPLICAS, IDLE, MEMORY = "growth", "replicas", "idle streams", "memory"
FEW_STREAMS, MANY_STREAMS = 1_000, 100_000
SHORT = 10
"""How many events each stream has where streams grow."""
LONGEST = 1_000_000
NUMBERS_OF_REPLICAS = (1, 2, 4)
IDLE_SECONDS = 30
MOST_MEGABYTES = 250


class Growth:
    """Figures of rates and of memory, of which the largest backlogs give both."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.megabytes: dict[str, list[Run]] = {}

    async def work_off(self, workload: Workload) -> Run:
        """Events a second of one worker that finds this backlog when it starts."""
        async with self.bench.world() as world:
            await world.append(workload)
            measured = await work_off(world, [WORKER_COMMAND])
            peak = Run(measured.peak_megabytes)
            self.megabytes.setdefault(described(workload), []).append(peak)
            return measured.rate(workload.events)

    async def share(self, replicas: int, workload: Workload) -> Run:
        """Events a second of so many replicas together that have joined before the backlog is there."""
        async with self.bench.world() as world:
            measured = await work_off(
                world,
                [WORKER_COMMAND] * replicas,
                before=partial(_append, world, workload),
            )
            return measured.rate(workload.events)

    async def idle(self, workload: Workload, seconds: float) -> Run:
        """Percent of a core that a worker takes once nothing is new and a sweep has seen so."""
        async with self.bench.world() as world:
            await world.append(workload)
            async with under_measurement(world, [WORKER_COMMAND]) as worker:
                ended = await worker.end(world.is_finished)
                settled = partial(_settled, world, workload.streams, ended)
                await wait_until(settled, "a sweep that finds nothing", END_SECONDS)
                before = await worker.cpu()
                await asyncio.sleep(seconds)
                cpu = spent(before, await worker.cpu())
            return Run(100 * cpu[WORKER] / seconds, cpu, seconds)


async def _append(world: World, workload: Workload) -> None:
    await world.append(workload)


async def _settled(world: World, streams: int, since: float) -> bool:
    """Whether no hint is left, and a sweep that began after this Unix time has found no news."""
    backlog = await feed_backlog(world.redis, world.keys, strategies.name)
    if backlog.waiting or backlog.pending:
        return False
    stored = await world.redis.get(world.keys.sweep_report(strategies.name))
    report = SweepReport.parse(stored) if stored is not None else None
    return (
        report is not None
        and (report.streams, report.behind) == (streams, 0)
        and report.finished_at - report.seconds > since
    )


def described(workload: Workload) -> str:
    """Its events and streams, as the table shows them."""
    streams = "1 stream" if workload.streams == 1 else f"{workload.streams:,} streams"
    return f"{workload.events:,} events of {streams}"


async def measure(bench: Bench) -> list[Figure]:
    """Rates of all sizes, in turns; then replicas, idle streams and what memory that took."""
    growth = Growth(bench)
    sizes = [*sizes_by_events(bench), *sizes_by_streams(bench)[1:], longest(bench)]
    if bench.quick:
        sizes = [size for size in sizes if size.events != bench.scaled(100_000)]
    rates = await bench.in_turns(
        GROWTH, {described(workload): partial(growth.work_off, workload) for workload in sizes}
    )
    shared = Workload(FEW_STREAMS, bench.scaled(100_000) // FEW_STREAMS)
    replicas: dict[str, Callable[[], Awaitable[Run]]] = {
        "1 replica" if number == 1 else f"{number} replicas": partial(growth.share, number, shared)
        for number in (NUMBERS_OF_REPLICAS[:2] if bench.quick else NUMBERS_OF_REPLICAS)
    }
    shares = await bench.in_turns(REPLICAS, replicas)
    many = sizes_by_streams(bench)[-1]
    idle = await growth.idle(many, bench.scaled(IDLE_SECONDS))
    bench.say(f"{IDLE}: {idle.value:.2f} % of a core")
    return [
        *(Figure(GROWTH, subject, "events/s", runs) for subject, runs in rates.items()),
        *(Figure(REPLICAS, subject, "events/s", runs) for subject, runs in shares.items()),
        Figure(IDLE, WORKER, "% of a core", [idle], f"{many.streams:,} streams"),
        *(
            Figure(MEMORY, described(workload), "MiB", growth.megabytes[described(workload)])
            for workload in (many, longest(bench))
        ),
    ]


def sizes_by_events(bench: Bench) -> list[Workload]:
    """10^4, 10^5 and 10^6 events on the same streams."""
    streams = bench.scaled(FEW_STREAMS)
    return [Workload(streams, SHORT * factor) for factor in (1, 10, 100)]


def sizes_by_streams(bench: Bench) -> list[Workload]:
    """10^3, 10^4 and 10^5 streams with the same number of events each."""
    return [Workload(bench.scaled(FEW_STREAMS) * factor, SHORT) for factor in (1, 10, 100)]


def longest(bench: Bench) -> Workload:
    """A single stream of 10^6 events."""
    return Workload(1, bench.scaled(LONGEST))


_SMALLEST = described(Workload(FEW_STREAMS, SHORT))
_MOST_EVENTS = described(Workload(FEW_STREAMS, SHORT * 100))
_MOST_STREAMS = described(Workload(MANY_STREAMS, SHORT))

SCENARIO = Scenario(
    "growth",
    measure,
    [  # Sizes that a quick run does not have.
        Target(Name(GROWTH, _MOST_EVENTS), Name(GROWTH, _SMALLEST), at_least=0.87),
        Target(Name(GROWTH, _MOST_STREAMS), Name(GROWTH, _SMALLEST), at_least=0.5),
        Target(Name(IDLE, WORKER), at_most=3),
        Target(Name(MEMORY, _MOST_STREAMS), at_most=MOST_MEGABYTES),
        Target(Name(MEMORY, described(Workload(1, LONGEST))), at_most=MOST_MEGABYTES),
    ],
)
