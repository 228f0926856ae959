"""Messages arriving on rows with plans of 100 kB: one for each stream, then the next.

Beside the worker, the same batches are written as full rows, by a writer that has them in hand. WAL is what
PostgreSQL logs of that, and what a replica of it would have to be sent.
"""

from __future__ import annotations

from tests.benchmarks.baselines import full_rows
from tests.benchmarks.bench import WORKER, WORKER_COMMAND, Bench, Command, Scenario, under_measurement
from tests.benchmarks.big_rows import OneEach, message_event, plan_event
from tests.benchmarks.measurement import Figure, Name, Run, Target
from tests.benchmarks.meter import spent
from tests.benchmarks.world import World

BIG_ROWS, WAL = "big rows", "big rows, WAL"
FULL_ROWS = "full rows"
ROUNDS = 4


class BigRows:
    """Events a second, and bytes of WAL for each event, of those who write."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.streams = bench.scaled(500)
        self.wal: dict[str, list[Run]] = {WORKER: [], FULL_ROWS: []}

    async def by_worker(self) -> Run:
        """The worker, which stands still while a round's messages are appended."""
        async with (
            self.bench.world() as world,
            under_measurement(world, [WORKER_COMMAND]) as worker,
        ):
            await world.append(OneEach(self.streams, plan_event))
            await worker.end(world.is_finished)
            cpu, seconds, wal = await worker.cpu(), 0.0, 0.0

            async def append() -> None:
                nonlocal wal
                await world.append(OneEach(self.streams, message_event))
                wal -= await wal_position(world)

            for _ in range(ROUNDS):
                await worker.stand_still(append)
                seconds += await worker.end(world.is_finished) - worker.started
                wal += await wal_position(world)
            return self._run(WORKER, seconds, spent(cpu, await worker.cpu()), wal)

    async def as_full_rows(self) -> Run:
        """The writer of full rows."""
        arguments = [str(self.streams), str(ROUNDS)]
        command = Command("writer", full_rows.__name__, arguments, tells_end=True)
        async with self.bench.world() as world:
            await full_rows.write(world.connection, self.streams, messages=0)
            wal = await wal_position(world)
            async with under_measurement(world, [command]) as writer:
                cpu = await writer.cpu()
                seconds = await writer.end(world.is_finished) - writer.started
                wal = await wal_position(world) - wal
                return self._run(FULL_ROWS, seconds, spent(cpu, await writer.cpu()), wal)

    def _run(self, subject: str, seconds: float, cpu: dict[str, float], wal: float) -> Run:
        events = self.streams * ROUNDS
        self.wal[subject].append(Run(wal / events))
        return Run(events / seconds, cpu, seconds)


async def wal_position(world: World) -> float:
    """How many bytes of WAL there have been so far."""
    query = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"
    return float(await world.connection.fetchval(query))


async def measure(bench: Bench) -> list[Figure]:
    """Both, in turns."""
    rows = BigRows(bench)
    runs = await bench.in_turns(BIG_ROWS, {WORKER: rows.by_worker, FULL_ROWS: rows.as_full_rows})
    return [
        *(Figure(BIG_ROWS, subject, "events/s", found) for subject, found in runs.items()),
        *(Figure(WAL, subject, "bytes/event", found) for subject, found in rows.wal.items()),
    ]


SCENARIO = Scenario(
    "big_rows", measure, [Target(Name(BIG_ROWS, WORKER), Name(BIG_ROWS, FULL_ROWS), at_least=5)]
)
