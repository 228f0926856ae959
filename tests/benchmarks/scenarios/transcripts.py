"""Reading the messages of a long conversation, deltas and all, straight from its log."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.bench import Bench, Command, Scenario, work_off
from tests.benchmarks.measurement import Figure, Name, Run, Target
from tests.benchmarks.workload import Workload

TRANSCRIPT = "messages of one log"
FUNCTION, PLAIN = "read_stream_messages", "every entry with json"
TIMES = 150

_WAYS = {FUNCTION: "fast", PLAIN: "plain"}


async def measure(bench: Bench) -> list[Figure]:
    """Events a second that each way reads, again and again from the start."""
    workload = Workload(1, bench.scaled(10_000))
    [stream_id] = workload.stream_ids
    async with bench.world() as world:
        await world.append(workload, hints=False)

        async def read(way: str) -> Run:
            arguments = [way, stream_id, str(TIMES)]
            command = Command("reader", "tests.benchmarks.baselines.transcripts", arguments, tells_end=True)
            return (await work_off(world, [command])).rate(workload.events * TIMES)

        runs = await bench.in_turns(
            TRANSCRIPT, {subject: partial(read, way) for subject, way in _WAYS.items()}
        )
    return [Figure(TRANSCRIPT, subject, "events/s", runs[subject]) for subject in _WAYS]


SCENARIO = Scenario(
    "transcripts",
    measure,
    [Target(Name(TRANSCRIPT, FUNCTION), Name(TRANSCRIPT, PLAIN), at_least=3)],
)
