"""The benchmark's baselines, in processes of their own, do the work that they are measured at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from projections import strategies
from tests.benchmarks.bench import Bench, work_off
from tests.benchmarks.scenarios.backlog import (
    Backlog,
    WrongRowsError,
    naive_command,
    read_command,
    write_command,
)
from tests.benchmarks.workload import Workload
from tests.benchmarks.world import World
from tests.logs import log_of
from tests.servers import RunningServers
from worker.testing.servers import Databases

WORKLOAD = Workload(streams=50, events_a_stream=120)


@pytest.fixture
def bench(servers: RunningServers, databases: Databases) -> Bench:
    say: Callable[[str], None] = list[str]().append
    # They make tables and worlds of their own.
    administrators = replace(servers, redis_url=servers.admin_redis_url)
    return Bench(administrators, databases, runs=1, quick=True, say=say)


async def test_baselines_come_to_the_rows_of_the_worker(bench: Bench) -> None:
    backlog = Backlog(bench, WORKLOAD, few=WORKLOAD)
    for measure in (backlog.worker, backlog.naive, backlog.faststream, backlog.hand_written):
        assert (await measure()).seconds > 0
    assert backlog.rows is not None
    assert set(backlog.rows) == set(WORKLOAD.stream_ids)


async def test_a_baseline_with_other_rows_than_the_worker_is_none(bench: Bench) -> None:
    backlog = Backlog(bench, WORKLOAD, few=WORKLOAD, rows=dict.fromkeys(WORKLOAD.stream_ids, "another"))
    with pytest.raises(WrongRowsError, match="50 rows of hand-written batch are not those of"):
        await backlog.hand_written()


async def test_the_naive_baseline_moves_positions_to_the_events_that_it_appends(bench: Bench) -> None:
    async with bench.world() as world:
        await work_off(world, [naive_command(WORKLOAD)])
        positions = await world.connection.fetch("SELECT stream_id, last_event_id FROM stream_projections")
        assert dict(positions) == {
            stream_id: await last_projected(world, stream_id) for stream_id in WORKLOAD.stream_ids
        }


async def last_projected(world: World, stream_id: str) -> str:
    """The id of the last event of a projected type in a log."""
    entries = await log_of(world.redis, world.keys, stream_id)
    types = {event_type.encode() for event_type in strategies.types}
    return [event_id for event_id, fields in entries if fields[b"type"] in types][-1]


async def test_the_read_limit_reads_and_acknowledges_everything(bench: Bench) -> None:
    async with bench.world() as world:
        await world.append(WORKLOAD, hints=False)
        await work_off(world, [read_command("group")])
        for stream_id in WORKLOAD.stream_ids:
            [group] = await world.redis.xinfo_groups(world.keys.log(stream_id))
            info = await world.redis.xinfo_stream(world.keys.log(stream_id))
            assert (group["pending"], group["last-delivered-id"]) == (0, info["last-generated-id"])


async def test_the_write_limit_writes_the_rows_of_the_worker(bench: Bench) -> None:
    workload = Workload(50, 100, only_projected=True)
    backlog = Backlog(bench, workload, few=workload)
    await backlog.worker()
    async with bench.world() as world:
        await work_off(world, [write_command(workload.streams, passes=2, connections=2)])
        assert await world.rows() == backlog.rows
