"""One run from beginning to end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.report import Report
from tests.chaos.schedule import Schedule
from tests.chaos.stalls import Watch
from tests.chaos.world import World, a_world
from tests.reference.model import single_reader
from tests.tables import Table, differences, read_table
from tests.waiting import wait_until
from worker.database import make_engine, parse_database_url
from worker.testing.hints import undone

EVENTS_A_SECOND = 200.0
SETTLE_SECONDS = 90
_DIFFERENCES_SHOWN = 20
_DIFFERENCE_LETTERS = 300


async def play(
    seed: int,
    seconds: float,
    *,
    rate: float = EVENTS_A_SECOND,
    kinds: Sequence[Fault] = FAULTS,
    logs: Path | None = None,
) -> Report:
    """Cause faults for so many seconds and look what came of it; the report says what was wrong.

    Raises what goes wrong with the driver itself. ``rate`` is in events a second, all producers together. The
    logs of the replicas are kept in the folder ``logs``.
    """
    rng = random.Random(seed)
    report = Report(seed, seconds)
    schedule = Schedule(random.Random(rng.random()), kinds)
    async with a_world(rng, rate, logs) as world:
        await world.fleet.all_started()
        watch = Watch(world, schedule)
        watching = asyncio.create_task(watch.run())
        try:
            await _work(world, schedule, seconds)
            await _judge(world, report)
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        if not watching.cancelled():
            watching.result()
        report.events, report.streams = world.ledger.events, len(world.ledger.logs)
        report.faults, report.longest_stall = dict(schedule.caused), watch.longest
        report.replicas_started, report.log_lines = world.fleet.starts, world.fleet.log_lines
        report.failures += world.fleet.failures
    return report


async def _work(world: World, schedule: Schedule, seconds: float) -> None:
    """Events and faults until the time is over, everything is mended, and everybody has started again."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(world.producers.run())
        try:
            await schedule.play(world, seconds)
        finally:
            world.producers.stop()
    await world.fleet.all_started()


async def _judge(world: World, report: Report) -> None:
    """Wait until all is right, which it must be soon; then stop the replicas, and it must be so still."""
    ended = time.monotonic()
    expected = await asyncio.to_thread(single_reader, world.ledger.logs)
    async with _engine(world) as engine, world.redis.session() as redis:

        async def table_is_right() -> bool:
            await asyncio.sleep(0.1)  # so that the comparison does not take the time of those who work
            return not differences(await read_table(engine), expected)

        async def hints_are_done() -> bool:
            return not await undone(redis, world.keys, strategies.name)

        try:
            await wait_until(table_is_right, "the table", SETTLE_SECONDS)
            report.settled_after_seconds = round(time.monotonic() - ended, 2)
            await wait_until(hints_are_done, "all hints to be acknowledged", SETTLE_SECONDS)
        except AssertionError as error:
            report.failures += [f"{error}\n{world.fleet.tails()}", *await _wrong(engine, expected)]
            report.failures += await undone(redis, world.keys, strategies.name)
        report.failures += [
            f"The driver is wrong: the log of {stream_id} is not as its ledger says."
            for stream_id in await world.ledger.differing(redis, world.keys)
        ]
        await world.fleet.stop()
        if not report.failures:
            report.failures += await _wrong(engine, expected)


async def _wrong(engine: AsyncEngine, expected: Table) -> list[str]:
    found = differences(await read_table(engine), expected)
    return [difference[:_DIFFERENCE_LETTERS] for difference in found[:_DIFFERENCES_SHOWN]]


@asynccontextmanager
async def _engine(world: World) -> AsyncIterator[AsyncEngine]:
    url = parse_database_url(world.postgresql.url)
    engine = make_engine(url, pool_size=1, application_name="chaos")
    try:
        yield engine
    finally:
        await engine.dispose()
