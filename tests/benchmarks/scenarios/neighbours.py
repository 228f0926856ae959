"""Three projections in one worker: what becomes of the lag of some while another is in trouble.

Lag is the time from XADD to the row that shows it, of checkpoint events. Each time it is measured in the same
world before the trouble and during it, so that whatever else the machine does weighs on both. How long the
worker could have run but had to wait for a core tells how much of it is mere hunger of the trouble for cores.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import asyncpg

from tests.acceptance.commands import running
from tests.benchmarks.bench import WORKER_COMMAND, Bench, Scenario, Subjects, under_measurement
from tests.benchmarks.measurement import Figure, Name, Run, Target
from tests.benchmarks.meter import spent
from tests.benchmarks.neighbours_load import PROJECTIONS, NeighboursLoad
from tests.benchmarks.workload import Workload
from tests.benchmarks.world import World
from tests.waiting import wait_until
from worker.loading import load_modules
from worker.migrate import migrate

MODULES = "projections,projections.stored_transcripts,tests.examples.orders"
P50, P99, TIMES, WAITS = "p50", "p99", "p50, times calm", "worker waits for a core"
CALM, TROUBLE = "calm", "trouble"
CHATS, ORDERS = 300, 100
"""Events a second."""
SECONDS = 10
WARM_UP_SECONDS = 3
BACKLOG_STREAMS = 1_000
MOST_TIMES_CALM = 1.1
_RETRY_SECONDS = 1.0
_RATE = "20"
"""Streams a second."""
_REPLICAS = 3
_LIFE_SECONDS = 2.0


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
    """The whole table of transcripts is rebuilt, again and again, by a process of its own.

    At a rate, as beside live projection on the same cores: as fast as it can it would take half of them.
    """

    async def rebuild() -> None:
        while True:
            with running("rebuild", "--projection", "transcripts", "--rate", _RATE, env=world.env) as command:
                await wait_until(lambda: command.process.poll() is not None, "a rebuild to end", 300)
                if command.process.returncode:
                    raise RuntimeError(f"A rebuild has failed: {command.log}")

    async with _meanwhile(rebuild()):
        yield


@asynccontextmanager
async def killed(world: World) -> AsyncIterator[None]:
    """Other workers that run transcripts alone are killed, one after the other; all have started before."""
    with ExitStack() as replicas:
        commands = [
            replicas.enter_context(running("run", "transcripts", env=world.env)) for _ in range(_REPLICAS)
        ]
        for command in commands:
            await wait_until(partial(command.says, '"event": "started"'), "a replica to start", 60)

        async def kill() -> None:
            for command in commands:
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
async def _meanwhile(trouble: Coroutine[None, None, None]) -> AsyncIterator[None]:
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
class Trouble:
    """Trouble of one projection; the neighbours are all others."""

    name: str
    projection: str
    begin: Callable[[World], AbstractAsyncContextManager[None]]
    poisons_orders: bool = False

    @property
    def neighbours(self) -> list[str]:
        return [name for name in PROJECTIONS if name != self.projection]

    def figure(self, subject: str, what: str) -> Name:
        return Name(f"neighbours, {self.name}", f"{subject}, {what}")


TROUBLES = (
    Trouble("orders poisoned", "orders", retried, poisons_orders=True),
    Trouble("orders locked", "orders", locked),
    Trouble("transcripts rebuilt", "transcripts", rebuilt),
    Trouble("replicas of transcripts killed", "transcripts", killed),
)


class Neighbours:
    """The lags found."""

    def __init__(self, bench: Bench) -> None:
        self.runs: dict[Name, list[Run]] = defaultdict(list)
        self._bench = bench

    async def measure(self, trouble: Trouble) -> Run:
        """Lags of all that are not in trouble, before and meanwhile; the ratio of that of strategies."""
        async with self._bench.world() as empty:
            world = replace(empty, env={**empty.env, "WORKER_PROJECTIONS": MODULES})
            await asyncio.to_thread(migrate, world.database_url, load_modules(MODULES))
            async with under_measurement(world, [WORKER_COMMAND]) as worker:
                await self._fill(world)
                load = NeighboursLoad(world, CHATS, ORDERS)
                await asyncio.to_thread(load.run, WARM_UP_SECONDS, trouble.neighbours)
                calm = await self._lags(worker, load, trouble, CALM)
                load.poisoned = trouble.poisons_orders
                async with trouble.begin(world):
                    troubled = await self._lags(worker, load, trouble, TROUBLE)
        for projection in trouble.neighbours:
            ratio = troubled[projection] / calm[projection]
            self.runs[trouble.figure(projection, TIMES)].append(Run(ratio))
        return self.runs[trouble.figure("strategies", TIMES)][-1]

    async def _lags(
        self, worker: Subjects, load: NeighboursLoad, trouble: Trouble, when: str
    ) -> dict[str, float]:
        """Note lags of the neighbours; their medians in seconds."""
        seconds = max(WARM_UP_SECONDS, self._bench.scaled(SECONDS))
        cpu, waited = await worker.cpu(), worker.waited_for_cores()
        lags = await asyncio.to_thread(load.run, seconds, trouble.neighbours)
        cpu, waited = spent(cpu, await worker.cpu()), worker.waited_for_cores() - waited
        for projection, found in lags.items():
            hundredths = statistics.quantiles(found, n=100)
            for what, value in ((P50, hundredths[49]), (P99, hundredths[98])):
                name = trouble.figure(projection, f"{what}, {when}")
                self.runs[name].append(Run(value * 1000, cpu, seconds))
        self.runs[trouble.figure(WAITS, when)].append(Run(1000 * waited / seconds))
        return {projection: statistics.median(found) for projection, found in lags.items()}

    async def _fill(self, world: World) -> None:
        """Have conversations in the tables before the clock runs."""
        workload = Workload(self._bench.scaled(BACKLOG_STREAMS), 200)
        await world.append(workload)

        async def transcribed() -> bool:
            found = await world.connection.fetchval("SELECT count(*) FROM stream_transcripts")
            return bool(found == workload.streams) and await world.is_finished()

        await wait_until(transcribed, "the tables to be filled", 120)


def _unit(name: Name) -> str:
    return "times" if name.subject.endswith(TIMES) else "ms/s" if name.subject.startswith(WAITS) else "ms"


async def measure(bench: Bench) -> list[Figure]:
    """All troubles, in turns."""
    neighbours = Neighbours(bench)
    subjects = {trouble.name: partial(neighbours.measure, trouble) for trouble in TROUBLES}
    await bench.in_turns("neighbours, strategies, times calm", subjects)
    return [Figure(*name, _unit(name), runs) for name, runs in neighbours.runs.items()]


SCENARIO = Scenario(
    "neighbours",
    measure,
    [
        Target(trouble.figure(projection, TIMES), at_most=MOST_TIMES_CALM)
        for trouble in TROUBLES
        for projection in trouble.neighbours
    ],
)
