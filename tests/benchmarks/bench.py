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
from functools import partial

from tests.acceptance.commands import RunningCommand, running
from tests.benchmarks.measurement import Figure, Run, Target, number
from tests.benchmarks.meter import Meter, peak_megabytes, spent
from tests.benchmarks.world import World, make_world
from tests.servers import Databases, RunningServers
from tests.waiting import wait_until

WORKER = "projection-worker"
START_SECONDS = 60
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
    """A command under measurement: how its CPU time is listed, and what is run."""

    name: str
    module: str
    arguments: Sequence[str] = ()


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
    meter = await Meter.of(world)
    with ExitStack() as stack:
        running_commands = [
            (command, stack.enter_context(running(*command.arguments, env=world.env, module=command.module)))
            for command in commands
        ]
        processes: dict[str, list[int]] = {}
        for command, process in running_commands:
            processes.setdefault(command.name, []).append(process.process.pid)
        told = [
            await wait_until(partial(started_at, process), "a start", START_SECONDS)
            for _, p in running_commands
        ]
        started = min(told)
        if before is not None:
            started = await _standing_still([process for _, process in running_commands], before)
        cpu = await meter.read(processes)
        ended = await _wait_for_end(
            [process for _, process in running_commands], finished or world.is_finished
        )
        taken = spent(cpu, await meter.read(processes))
        peak = max(peak_megabytes(process.process.pid) for _, process in running_commands)
        for _, process in running_commands:
            await asyncio.to_thread(process.stop)
    return Measured(ended - started, taken, peak)


def started_at(command: RunningCommand) -> float | None:
    """The Unix time at which a command says that it has started; None if it has not yet."""
    line = next((line for line in command.log.splitlines() if '"started"' in line), None)
    if line is None:
        _must_run(command)
        return None
    return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp()


async def _standing_still(commands: Sequence[RunningCommand], work: Callable[[], Awaitable[None]]) -> float:
    """Do something while these stand still; the time from which they go on."""
    for command in commands:
        command.process.send_signal(signal.SIGSTOP)
    try:
        await work()
    finally:
        for command in commands:
            command.process.send_signal(signal.SIGCONT)
    return time.time()


async def _wait_for_end(commands: Sequence[RunningCommand], finished: Callable[[], Awaitable[bool]]) -> float:
    """The Unix time of the look that found everything finished; looking takes a tenth of the time at most."""
    async with asyncio.timeout(END_SECONDS):
        while True:
            began = time.time()
            if await finished():
                return began
            for command in commands:
                _must_run(command)
            await asyncio.sleep(max(_PAUSE_SECONDS, (time.time() - began) / _SHARE_OF_LOOKING))


def _must_run(command: RunningCommand) -> None:
    if command.process.poll() is not None:
        raise RuntimeError(f"A command under measurement has ended: {command.log}")
