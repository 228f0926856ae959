"""The chat backlog projected, then rebuilt from the start of its logs, then verified: one after the other."""

from __future__ import annotations

from collections import defaultdict

from tests.benchmarks.bench import WORKER_COMMAND, Bench, Command, Scenario, work_off
from tests.benchmarks.measurement import Figure, Name, Run, Target, number
from tests.benchmarks.workload import Workload

WHOLE = "chat backlog, all of it"
PROJECT, REBUILD, VERIFY = "projected", "rebuilt", "verified"
PEAK = "peak RSS of rebuild and verify"
MOST_MEGABYTES = 250

_MODULE = "tests.benchmarks.whole_table"
_COMMANDS = {
    PROJECT: WORKER_COMMAND,
    REBUILD: Command("rebuild", _MODULE, ["rebuild"], tells_end=True),
    VERIFY: Command("verify", _MODULE, ["verify"], tells_end=True),
}


async def measure(bench: Bench) -> list[Figure]:
    """Events a second of each, while nothing else goes on; and the memory that the last two take."""
    workload = Workload(bench.scaled(1_000), 200)
    rates: dict[str, list[Run]] = defaultdict(list)
    megabytes: list[Run] = []
    for at in range(1, bench.runs + 1):
        async with bench.world() as world:
            await world.append(workload)
            peaks: list[float] = []
            for done, command in _COMMANDS.items():
                measured = await work_off(world, [command])
                rates[done].append(measured.rate(workload.events))
                peaks.append(measured.peak_megabytes)
                bench.say(f"{WHOLE}, run {at} of {bench.runs}: {done}: {number(rates[done][-1].value)}")
            megabytes.append(Run(max(peaks[1:])))
    return [
        *(Figure(WHOLE, done, "events/s", rates[done]) for done in _COMMANDS),
        Figure(WHOLE, PEAK, "MiB", megabytes),
    ]


SCENARIO = Scenario(
    "rebuild_verify",
    measure,
    [
        Target(Name(WHOLE, REBUILD), Name(WHOLE, PROJECT), at_least=1),
        Target(Name(WHOLE, VERIFY), Name(WHOLE, REBUILD), at_least=1.3),
        Target(Name(WHOLE, PEAK), at_most=MOST_MEGABYTES),
    ],
)
