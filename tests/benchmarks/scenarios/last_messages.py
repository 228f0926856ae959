"""Reading the last messages of a very long conversation: from its log, and from where they are projected."""

from __future__ import annotations

from functools import partial

from sqlalchemy.ext.asyncio import create_async_engine

from projections.stored_transcripts import transcripts
from tests.benchmarks.bench import Bench, Command, Scenario, work_off
from tests.benchmarks.measurement import Figure, Name, Run, Target
from tests.benchmarks.workload import Workload
from worker import rebuild_streams
from worker.database import parse_database_url

PAGE = "last 20 messages"
TABLE, LOG = "read_projected_messages", "read_stream_messages"

_WAYS = {TABLE: ("table", 1_000), LOG: ("log", 4)}


async def measure(bench: Bench) -> list[Figure]:
    """How often a second each way reads them."""
    workload = Workload(1, bench.scaled(100_000))
    [stream_id] = workload.stream_ids
    async with bench.world() as world:
        await world.append(workload, hints=False)
        engine = create_async_engine(parse_database_url(world.database_url))
        [rebuilt] = await rebuild_streams(world.redis, engine, transcripts, [stream_id], keys=world.keys)
        await engine.dispose()
        assert rebuilt.refusal is None, rebuilt.detail

        async def read(way: str, times: int) -> Run:
            arguments = [way, stream_id, str(times)]
            command = Command("reader", "tests.benchmarks.baselines.last_messages", arguments, tells_end=True)
            return (await work_off(world, [command])).rate(times)

        runs = await bench.in_turns(PAGE, {subject: partial(read, *way) for subject, way in _WAYS.items()})
    return [Figure(PAGE, subject, "pages/s", runs[subject]) for subject in _WAYS]


SCENARIO = Scenario("last_messages", measure, [Target(Name(PAGE, TABLE), Name(PAGE, LOG), at_least=50)])
