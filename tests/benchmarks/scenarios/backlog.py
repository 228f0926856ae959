"""A backlog that a worker finds when it starts: whole chats, and events of projected types alone.

The baselines come to the same rows, which is checked. Slow ones get a tenth of the streams; what an event
costs them does not depend on that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from tests.benchmarks.baselines.faststream_batch import publish
from tests.benchmarks.bench import WORKER, WORKER_COMMAND, Bench, Command, Measured, Scenario, work_off
from tests.benchmarks.measurement import Figure, Name, Run, Target
from tests.benchmarks.workload import Workload
from tests.benchmarks.world import World

CHAT, PROJECTED_ONLY = "chat backlog", "projected only"
NAIVE, FASTSTREAM = "naive", "FastStream batch"
HAND_WRITTEN, READ_GROUP, READ_RANGES = "hand-written batch", "read limit", "read limit, XRANGE"
PEAK = f"peak RSS of {WORKER}"
WRITE_LIMITS = {1: "write limit", 2: "write limit, two connections"}
WRITE_PASSES = 10
MOST_MEGABYTES = 250

_BASELINES = "tests.benchmarks.baselines"


class WrongRowsError(Exception):
    """A subject has not done the work that it was measured at."""


@dataclass
class Backlog:
    """One backlog under measurement: the whole for most, and ``few`` of its events for slow ones.

    ``rows`` are those of the worker, once it has worked it off, and the measure of all others.
    """

    bench: Bench
    workload: Workload
    few: Workload
    rows: dict[str, str] | None = None

    async def worker(self) -> Measured:
        return await self._by(WORKER_COMMAND, self.workload, self._logs_and_hints)

    async def naive(self) -> Measured:
        return await self._by(naive_command(self.few), self.few, _nothing)

    async def faststream(self) -> Measured:
        command = Command("FastStream", f"{_BASELINES}.faststream_batch")
        return await self._by(command, self.few, self._published)

    async def hand_written(self) -> Measured:
        command = Command(HAND_WRITTEN, f"{_BASELINES}.hand_written")
        return await self._by(command, self.workload, self._logs)

    async def read_limit(self, way: str) -> Measured:
        async with self.bench.world() as world:
            await self._logs(world, self.workload)
            return await work_off(world, [read_command(way)])

    async def _by(
        self, command: Command, workload: Workload, prepare: Callable[[World, Workload], Awaitable[object]]
    ) -> Measured:
        """Have the workload projected, and see that all of it was."""
        async with self.bench.world() as world:
            await prepare(world, workload)
            measured = await work_off(world, [command])
            self._check(command, workload, await world.rows())
            return measured

    def _check(self, command: Command, workload: Workload, rows: dict[str, str]) -> None:
        if self.rows is None and command is WORKER_COMMAND:
            self.rows = rows  # Tests of its own say that these are right.
        assert self.rows is not None, "the worker comes first"
        expected = {stream_id: self.rows[stream_id] for stream_id in workload.stream_ids}
        if rows != expected:
            wrong = sum(rows.get(stream_id) != row for stream_id, row in expected.items())
            raise WrongRowsError(f"{wrong} rows of {command.name} are not those of {WORKER}.")

    async def _logs(self, world: World, workload: Workload) -> None:
        await world.append(workload, hints=False)

    async def _logs_and_hints(self, world: World, workload: Workload) -> None:
        await world.append(workload)

    async def _published(self, world: World, workload: Workload) -> None:
        await world.expect(await publish(world.redis, world.keys, workload))


def naive_command(workload: Workload) -> Command:
    """The baseline that makes the backlog itself."""
    arguments = [str(workload.streams), str(workload.events_a_stream)]
    if workload.only_projected:
        arguments.append("--only-projected")
    return Command(NAIVE, f"{_BASELINES}.naive", arguments, tells_end=True)


def read_command(way: str) -> Command:
    """Reads all logs, by ``group`` or by ``range``."""
    return Command("reader", f"{_BASELINES}.read_limit", [way], tells_end=True)


def write_command(streams: int, passes: int, connections: int) -> Command:
    """Writes the rows of so many streams, so often."""
    arguments = [str(number) for number in (streams, passes, connections)]
    return Command("writer", f"{_BASELINES}.write_limit", arguments, tells_end=True)


async def _nothing(world: World, workload: Workload) -> None:
    """For `naive_command`."""


def tenth(workload: Workload) -> Workload:
    """A tenth of the streams: the first ones, with the same events."""
    return replace(workload, streams=max(1, workload.streams // 10))


async def measure_backlog(bench: Bench, name: str, workload: Workload) -> list[Figure]:
    """Events a second of the worker and of all baselines, and the worker's peak memory."""
    backlog = Backlog(bench, workload, tenth(workload))
    megabytes: list[float] = []

    async def worker() -> Run:
        measured = await backlog.worker()
        megabytes.append(measured.peak_megabytes)
        return measured.rate(workload.events)

    async def rate(events: int, measure: Callable[[], Awaitable[Measured]]) -> Run:
        return (await measure()).rate(events)

    few = backlog.few.events
    subjects: dict[str, tuple[int, Callable[[], Awaitable[Run]]]] = {
        WORKER: (workload.events, worker),
        NAIVE: (few, partial(rate, few, backlog.naive)),
        FASTSTREAM: (few, partial(rate, few, backlog.faststream)),
        HAND_WRITTEN: (workload.events, partial(rate, workload.events, backlog.hand_written)),
        READ_GROUP: (
            workload.events,
            partial(rate, workload.events, partial(backlog.read_limit, "group")),
        ),
        READ_RANGES: (
            workload.events,
            partial(rate, workload.events, partial(backlog.read_limit, "range")),
        ),
    }
    runs = await bench.in_turns(name, {subject: measure for subject, (_, measure) in subjects.items()})
    figures = [
        Figure(
            name,
            subject,
            "events/s",
            runs[subject],
            "" if events == workload.events else f"{events:,} events",
        )
        for subject, (events, _) in subjects.items()
    ]
    return [*figures, Figure(name, PEAK, "MiB", [Run(value) for value in megabytes])]


async def measure_writes(bench: Bench) -> list[Figure]:
    """Full rows a second that PostgreSQL takes."""
    streams = bench.scaled(1_000)

    async def write(connections: int) -> Run:
        command = write_command(streams, WRITE_PASSES, connections)
        async with bench.world() as world:
            return (await work_off(world, [command])).rate(streams * WRITE_PASSES)

    subjects = {subject: partial(write, connections) for connections, subject in WRITE_LIMITS.items()}
    runs = await bench.in_turns("full rows", subjects)
    return [Figure("full rows", subject, "rows/s", runs[subject]) for subject in subjects]


async def measure(bench: Bench) -> list[Figure]:
    """Both backlogs, and what PostgreSQL takes."""
    chat = Workload(bench.scaled(1_000), 200)
    projected_only = Workload(bench.scaled(1_000), 100, only_projected=True)
    return [
        *await measure_backlog(bench, CHAT, chat),
        *await measure_backlog(bench, PROJECTED_ONLY, projected_only),
        *await measure_writes(bench),
    ]


def _at_least(scenario: str, ratio: float, than: str) -> Target:
    return Target(Name(scenario, WORKER), Name(scenario, than), at_least=ratio)


SCENARIO = Scenario(
    "backlog",
    measure,
    [
        _at_least(CHAT, 60, NAIVE),
        _at_least(CHAT, 22, FASTSTREAM),
        _at_least(CHAT, 2, HAND_WRITTEN),
        _at_least(CHAT, 0.7, READ_GROUP),
        _at_least(PROJECTED_ONLY, 200, NAIVE),
        _at_least(PROJECTED_ONLY, 80, FASTSTREAM),
        _at_least(PROJECTED_ONLY, 4, HAND_WRITTEN),
        *(Target(Name(scenario, PEAK), at_most=MOST_MEGABYTES) for scenario in (CHAT, PROJECTED_ONLY)),
    ],
)
