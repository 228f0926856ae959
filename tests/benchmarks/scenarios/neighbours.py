"""Three projections in one worker: what becomes of the lag of some while another is in trouble.

Lag is the time from XADD to the row that shows it, of checkpoint events. The load leaves both cores room; what
else a disturbance does to a machine of two cores, by its own work, is in the figures.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import asyncpg

from tests.acceptance.commands import running
from tests.benchmarks.bench import WORKER_COMMAND, Bench, Scenario, under_measurement
from tests.benchmarks.measurement import Figure, Name, Run, Target
from tests.benchmarks.meter import spent
from tests.benchmarks.neighbours_load import PROJECTIONS, NeighboursLoad
from tests.benchmarks.workload import Workload
from tests.benchmarks.world import World
from tests.waiting import wait_until
from worker.loading import load_modules
from worker.migrate import migrate

MODULES = "projections,projections.stored_transcripts,tests.examples.orders"
CALM = "calm"
P50, P99 = "p50", "p99"
CHATS, ORDERS = 300, 100
"""Events a second."""
SECONDS = 20
WARM_UP_SECONDS = 3
BACKLOG_STREAMS = 1_000
MOST_TIMES_CALM = 1.1
_RETRY_SECONDS = 1.0
_LIFE_SECONDS = 2.0

Trouble = Callable[[World], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def no_trouble(world: World) -> AsyncIterator[None]:
    """Nothing at all."""
    yield


@asynccontextmanager
async def retried(world: World) -> AsyncIterator[None]:
    """Every blocked order is due for another try, all the time."""
    connection = await asyncpg.connect(world.database_url)

    async def retry() -> None:
        while True:
            await connection.execute("UPDATE dead_letters SET retry_at = now() WHERE state = 'open'")
            await asyncio.sleep(_RETRY_SECONDS)

    async with _meanwhile(retry()):
        yield
    await connection.close()


@asynccontextmanager
async def rebuilt(world: World) -> AsyncIterator[None]:
    """The whole table of transcripts is rebuilt, again and again, by a process of its own."""

    async def rebuild() -> None:
        while True:
            with running("rebuild", "--projection", "transcripts", env=world.env) as command:
                await wait_until(lambda: command.process.poll() is not None, "a rebuild to end", 300)
                if command.process.returncode:
                    raise RuntimeError(f"A rebuild has failed: {command.log}")

    async with _meanwhile(rebuild()):
        yield


@asynccontextmanager
async def killed(world: World) -> AsyncIterator[None]:
    """Another worker that runs transcripts alone is killed as soon as it has a part in them, again and again."""

    async def kill() -> None:
        while True:
            with running("run", "transcripts", env=world.env) as command:
                await wait_until(lambda: command.says('"event": "started"'), "a replica to start", 60)
                await asyncio.sleep(_LIFE_SECONDS)
                command.process.send_signal(signal.SIGKILL)

    async with _meanwhile(kill()):
        yield


@asynccontextmanager
async def locked(world: World) -> AsyncIterator[None]:
    """Somebody holds the locks of all rows of orders."""
    connection = await asyncpg.connect(world.database_url)
    async with connection.transaction():
        await connection.execute("SELECT 1 FROM orders FOR UPDATE")
        yield
    await connection.close()


@asynccontextmanager
async def _meanwhile(trouble: asyncio.Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(trouble)
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Trouble of one projection; the neighbours are all others."""

    name: str
    projection: str
    trouble: Trouble
    poisoned: bool = False

    @property
    def neighbours(self) -> list[str]:
        return [name for name in PROJECTIONS if name != self.projection]


UNDISTURBED = Disturbance(CALM, "", no_trouble)
DISTURBANCES = (
    Disturbance("orders poisoned", "orders", retried, poisoned=True),
    Disturbance("transcripts rebuilt", "transcripts", rebuilt),
    Disturbance("replicas of transcripts killed", "transcripts", killed),
    Disturbance("orders locked", "orders", locked),
)


class Neighbours:
    """The lags found, by projection, quantile and disturbance."""

    def __init__(self, bench: Bench) -> None:
        self.runs: dict[Name, list[Run]] = defaultdict(list)
        self._bench = bench

    async def measure(self, disturbance: Disturbance) -> Run:
        """Lags of all that are not disturbed; the median of strategies, which never are."""
        seconds = max(WARM_UP_SECONDS, self._bench.scaled(SECONDS))
        async with self._bench.world() as empty:
            world = replace(empty, env={**empty.env, "WORKER_PROJECTIONS": MODULES})
            await asyncio.to_thread(migrate, world.database_url, load_modules(MODULES))
            async with under_measurement(world, [WORKER_COMMAND]) as worker:
                await self._fill(world)
                load = NeighboursLoad(world, CHATS, ORDERS, poisoned=disturbance.poisoned)
                run = partial(asyncio.to_thread, load.run)
                await run(WARM_UP_SECONDS, watched=disturbance.neighbours)
                async with disturbance.trouble(world):
                    cpu = await worker.cpu()
                    lags = await run(seconds, watched=disturbance.neighbours)
                    taken = spent(cpu, await worker.cpu())
        for projection, found in lags.items():
            hundredths = statistics.quantiles(found, n=100)
            for what, value in ((P50, hundredths[49]), (P99, hundredths[98])):
                self.runs[_name(projection, what, disturbance)].append(Run(value * 1000, taken, seconds))
        return self.runs[_name("strategies", P50, disturbance)][-1]

    async def _fill(self, world: World) -> None:
        """Have conversations in the tables before the clock runs."""
        workload = Workload(self._bench.scaled(BACKLOG_STREAMS), 200)
        await world.append(workload)

        async def transcribed() -> bool:
            found = await world.connection.fetchval("SELECT count(*) FROM stream_transcripts")
            return bool(found == workload.streams) and await world.is_finished()

        await wait_until(transcribed, "the tables to be filled", 120)


def _name(projection: str, what: str, disturbance: Disturbance) -> Name:
    return Name(f"neighbours, lag of {projection}, {what}", disturbance.name)


async def measure(bench: Bench) -> list[Figure]:
    """All disturbances and none, in turns."""
    neighbours = Neighbours(bench)
    subjects = {d.name: partial(neighbours.measure, d) for d in (UNDISTURBED, *DISTURBANCES)}
    await bench.in_turns("neighbours, lag of strategies in ms", subjects)
    return [Figure(*name, "ms", runs) for name, runs in sorted(neighbours.runs.items())]


SCENARIO = Scenario(
    "neighbours",
    measure,
    [
        Target(
            _name(projection, P50, disturbance),
            _name(projection, P50, UNDISTURBED),
            at_most=MOST_TIMES_CALM,
        )
        for disturbance in DISTURBANCES
        for projection in disturbance.neighbours
    ],
)
