"""What scenarios measure with: worlds, commands under measurement, and the order of runs."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from tests.acceptance.commands import RunningCommand, running
from tests.benchmarks.measurement import Figure, Run, Target, number
from tests.benchmarks.meter import Meter, peak_megabytes, spent, waited_for_cores
from tests.benchmarks.world import World, make_world
from tests.servers import RunningServers
from tests.waiting import wait_until
from worker.testing.servers import Databases

WORKER = "projection-worker"
END_SECONDS = 600
_PAUSE_SECONDS = 0.005
_SHARE_OF_LOOKING = 0.1


@dataclass(frozen=True, slots=True)
class Bench:
    """How much is to be measured, and where. ``say`` tells people what is going on."""

    servers: RunningServers
    databases: Databases
    runs: int
    quick: bool
    say: Callable[[str], None]

    def scaled(self, full: int) -> int:
        """So many; a tenth in a quick run."""
        return full // 10 if self.quick else full

    @asynccontextmanager
    async def world(self) -> AsyncIterator[World]:
        """An empty world."""
        async with make_world(self.servers, self.databases) as world:
            yield world

    async def in_turns(
        self, scenario: str, subjects: Mapping[str, Callable[[], Awaitable[Run]]]
    ) -> dict[str, list[Run]]:
        """Measure all subjects one after the other, and again, so that their ratios are of the same time."""
        runs: dict[str, list[Run]] = {subject: [] for subject in subjects}
        for at in range(1, self.runs + 1):
            for subject, measure in subjects.items():
                run = await measure()
                runs[subject].append(run)
                self.say(f"{scenario}, run {at} of {self.runs}: {subject}: {number(run.value)}")
        return runs


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something to measure, and what must come out."""

    name: str
    measure: Callable[[Bench], Awaitable[list[Figure]]]
    targets: Sequence[Target] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """A command under measurement: how its CPU time is listed, and what is run.

    One that ``tells_end`` logs that it has finished, and waits.
    """

    name: str
    module: str
    arguments: Sequence[str] = ()
    tells_end: bool = False


WORKER_COMMAND = Command(WORKER, "worker", ("run",))


@dataclass(frozen=True, slots=True)
class Measured:
    """Wall clock and CPU seconds, and the peak memory of the largest of the commands, in MiB."""

    seconds: float
    cpu: Mapping[str, float]
    peak_megabytes: float

    def rate(self, events: int) -> Run:
        """Events a second, for so many events."""
        return Run(events / self.seconds, self.cpu, self.seconds)


class Subjects:
    """Commands under measurement that have started; ``started`` is the Unix time at which the first had."""

    def __init__(
        self, meter: Meter, running_commands: Sequence[tuple[Command, RunningCommand]], started: float
    ) -> None:
        self.started = started
        self._meter = meter
        self._running = running_commands

    async def cpu(self) -> dict[str, float]:
        """CPU seconds so far, of the servers too."""
        processes: dict[str, list[int]] = {}
        for command, process in self._running:
            processes.setdefault(command.name, []).append(process.process.pid)
        return await self._meter.read(processes)

    def peak_megabytes(self) -> float:
        """The most memory that one of them has had, in MiB."""
        return max(peak_megabytes(process.process.pid) for _, process in self._running)

    def waited_for_cores(self) -> float:
        """Seconds for which they could have run, but others had the cores; 0 where Linux does not tell."""
        return sum(waited_for_cores(process.process.pid) for _, process in self._running)

    async def stand_still(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something while they stand still; they count as started when they go on."""
        self._signal(signal.SIGSTOP)
        try:
            await work()
        finally:
            self._signal(signal.SIGCONT)
        self.started = time.time()

    async def end(self, finished: Callable[[], Awaitable[bool]]) -> float:
        """The Unix time at which all was done: as they tell, or as a look told, which may be 5 ms late.

        Looking takes a tenth of the time at most.
        """
        async with asyncio.timeout(END_SECONDS):
            if all(command.tells_end for command, _ in self._running):
                return max([await _said(process, "finished") for _, process in self._running])
            while True:
                began = time.time()
                if await finished():
                    return began
                for _, process in self._running:
                    _must_run(process)
                await asyncio.sleep(max(_PAUSE_SECONDS, (time.time() - began) / _SHARE_OF_LOOKING))

    def _signal(self, signum: signal.Signals) -> None:
        for _, process in self._running:
            process.process.send_signal(signum)


@asynccontextmanager
async def under_measurement(world: World, commands: Sequence[Command]) -> AsyncIterator[Subjects]:
    """Start commands, and stop them at the end."""
    meter = await Meter.of(world)
    with ExitStack() as stack:
        started = [
            (command, stack.enter_context(running(*command.arguments, env=world.env, module=command.module)))
            for command in commands
        ]
        told = [await _said(process, "started") for _, process in started]
        yield Subjects(meter, started, min(told))
        for _, process in started:
            await asyncio.to_thread(process.stop)


async def work_off(
    world: World,
    commands: Sequence[Command],
    *,
    finished: Callable[[], Awaitable[bool]] | None = None,
    before: Callable[[], Awaitable[None]] | None = None,
) -> Measured:
    """Run commands until all is done, by default until all rows stand where they are expected.

    They are timed from the moment at which they say that they have started; with ``before``, which makes
    their work, they start first, stand still while it runs, and are timed from when they go on.
    """
    async with under_measurement(world, commands) as subjects:
        if before is not None:
            await subjects.stand_still(before)
        cpu = await subjects.cpu()
        ended = await subjects.end(finished or world.is_finished)
        taken = spent(cpu, await subjects.cpu())
        return Measured(ended - subjects.started, taken, subjects.peak_megabytes())


async def _said(command: RunningCommand, event: str) -> float:
    """The Unix time at which a command says that something happens, waited for."""

    def told() -> float | None:
        line = next((line for line in command.log.splitlines() if f'"event": "{event}"' in line), None)
        if line is None:
            _must_run(command)
            return None
        return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()

    return await wait_until(told, f"a command to say that it has {event}", END_SECONDS)


def _must_run(command: RunningCommand) -> None:
    if command.process.poll() is not None:
        raise RuntimeError(f"A command under measurement has ended: {command.log}")
