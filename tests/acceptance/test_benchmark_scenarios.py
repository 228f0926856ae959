"""The benchmark's scenarios measure what they say: nothing is left undone, and nobody waits in vain."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.benchmarks.baselines import full_rows
from tests.benchmarks.bench import WORKER_COMMAND, Bench, Command, under_measurement, work_off
from tests.benchmarks.big_rows import OneEach, message_event, plan_event
from tests.benchmarks.live_load import CHECKPOINTS, LiveLoad, chat_events
from tests.benchmarks.scenarios import transcripts
from tests.benchmarks.workload import Workload
from tests.servers import RunningServers
from worker.testing.servers import Databases

STREAMS = 20


@pytest.fixture
def bench(servers: RunningServers, databases: Databases) -> Bench:
    say: Callable[[str], None] = list[str]().append
    # They make tables and worlds of their own.
    administrators = replace(servers, redis_url=servers.admin_redis_url)
    return Bench(administrators, databases, runs=1, quick=True, say=say)


async def test_the_reader_of_a_live_load_sees_every_checkpoint_event(bench: Bench) -> None:
    async with bench.world() as world, under_measurement(world, [WORKER_COMMAND]):
        latencies = await asyncio.to_thread(LiveLoad(world, rate=500).run, 1.0)
    events = itertools.islice(chat_events(seed=7), 500)
    assert len(latencies) == sum(event_type in CHECKPOINTS for _, (_, event_type, _) in events)
    assert min(latencies) > 0


async def test_full_rows_are_those_of_the_worker(bench: Bench) -> None:
    columns = "stream_id, name, message_count, plan::text"
    async with bench.world() as world:
        for event in (plan_event, message_event, message_event):
            await world.append(OneEach(STREAMS, event))
        await work_off(world, [WORKER_COMMAND])
        expected = await world.connection.fetch(f"SELECT {columns} FROM stream_projections ORDER BY 1")
    async with bench.world() as world:
        await full_rows.write(world.connection, STREAMS, messages=0)
        writer = Command("writer", full_rows.__name__, [str(STREAMS), "2"], tells_end=True)
        await work_off(world, [writer])
        assert (
            await world.connection.fetch(f"SELECT {columns} FROM stream_projections ORDER BY 1") == expected
        )


async def test_rebuild_and_verify_are_measured_on_a_table_that_is_right(bench: Bench) -> None:
    async with bench.world() as world:
        await world.append(Workload(STREAMS, 100))
        await work_off(world, [WORKER_COMMAND])
        before = await world.rows()
        for way in ("rebuild", "verify"):  # Both end badly where anything is wrong.
            await work_off(world, [Command(way, "tests.benchmarks.whole_table", [way], tells_end=True)])
        assert await world.rows() == before
        assert len(before) == STREAMS


async def test_both_ways_of_reading_a_transcript_come_to_the_same(bench: Bench) -> None:
    for figure in await transcripts.measure(bench):  # The reader itself compares them.
        assert figure.median > 0
