"""The service: from a hint to a committed row and an acknowledgement; a stop that leaves nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.projecting import run
from tests.servers import RunningServers
from tests.serving import Serving, serving
from tests.tallies import tallies
from tests.waiting import wait_until
from tests.writes import create_tallies
from worker import Keys
from worker.projector import Projector
from worker.replicas import ReplicaReport
from worker.store import Store
from worker.table import RowWrite


@pytest.fixture
async def running(servers: RunningServers, database_url: str, keys: Keys) -> AsyncIterator[Serving]:
    async with serving(servers.redis_url, database_url, keys) as running:
        yield running


class Gate:
    """Holds up writes until it is opened, and tells when one stands before it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        gate, write = self, Store.write

        async def held_up(store: Store, writes: Sequence[RowWrite]) -> set[str]:
            gate.reached.set()
            await gate.open.wait()
            return await write(store, writes)

        monkeypatch.setattr(Store, "write", held_up)


@pytest.fixture
def gate(running: Serving, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


# From hint to row.


async def test_a_hinted_event_is_projected_at_once_and_acknowledged(running: Serving) -> None:
    await running.reached("warm-up", await running.emit("warm-up", "user_message"))
    started = time.monotonic()
    await running.reached("a", await running.emit("a", "strategy_link", {"wdkStrategyId": 7}))
    assert time.monotonic() - started < 1
    await running.acknowledged()


async def test_a_hint_is_acknowledged_after_the_commit(running: Serving, gate: Gate) -> None:
    event_id = await running.emit("a", "user_message")
    await gate.reached.wait()
    assert await running.pending() == 1
    assert not await running.at("a", event_id)
    gate.open.set()
    await running.reached("a", event_id)
    await running.acknowledged()


async def test_hints_of_other_types_are_acknowledged_without_a_pass(
    running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Projector, "project_batch", pytest.fail)
    for _ in range(20):
        await running.emit("a", "assistant_delta")
    await running.acknowledged()


async def test_a_hint_without_a_type_is_heeded(running: Serving) -> None:
    event_id = await running.world.append("a", "user_message")
    await running.admin.xadd(running.keys.feed(0), {"stream": "a"})
    await running.reached("a", event_id)


async def test_events_of_a_stream_that_come_together_cost_one_write(running: Serving, gate: Gate) -> None:
    await running.emit("a", "user_message")
    await gate.reached.wait()
    for _ in range(50):
        last = await running.emit("a", "user_message")
    gate.open.set()
    await running.reached("a", last)
    await running.acknowledged()
    report = await wait_until(partial(reported, running, events=51), "a report")
    assert report.rows_written <= 4


async def reported(running: Serving, events: int) -> ReplicaReport | None:
    report = await running.report()
    return report if report and report.events_applied >= events else None


async def test_a_checkpoint_does_not_linger_and_takes_others_with_it(
    servers: RunningServers, database_url: str, keys: Keys
) -> None:
    async with serving(servers.redis_url, database_url, keys, linger_ms=10_000) as running:
        message = await running.emit("a", "user_message")
        await wait_until(running.pending, "the hint to be read")
        assert not await running.at("a", message)
        started = time.monotonic()
        await running.reached("b", await running.emit("b", "graph_plan", {"plan": {}}))
        await running.reached("a", message)
        assert time.monotonic() - started < 5


async def test_an_event_without_a_hint_is_projected_by_a_sweep(
    servers: RunningServers, database_url: str, keys: Keys
) -> None:
    async with serving(servers.redis_url, database_url, keys, sweep_seconds=0.1) as running:
        await running.reached("a", await running.world.append("a", "user_message"))
        await running.reached("a", await running.world.append("a", "user_message"))


async def test_two_services_share_the_work_and_apply_every_event_once(
    running: Serving, servers: RunningServers, database_url: str
) -> None:
    async with serving(servers.redis_url, database_url, running.keys) as other:
        for number in range(300):
            last = {f"s{number % 20}": await running.emit(f"s{number % 20}", "user_message")}
        await running.acknowledged()
        await running.reached(*next(iter(last.items())))
        for number in range(20):
            row = await running.world.row(f"s{number}")
            assert row is not None
            assert row["message_count"] == 15
        await other.stop()


# Stopping.


async def test_a_stop_finishes_what_is_in_hand_and_leaves_nothing_behind(
    running: Serving, gate: Gate
) -> None:
    events = {stream_id: await running.emit(stream_id, "user_message") for stream_id in "abc"}
    await gate.reached.wait()
    stopping = asyncio.create_task(running.stop())
    await wait_until(running.stopping.is_set, "the stop")
    gate.open.set()
    await stopping
    for stream_id, event_id in events.items():
        assert await running.at(stream_id, event_id)
    assert await running.pending() == 0
    for partition in range(running.keys.partitions):
        assert await running.admin.xinfo_consumers(running.keys.feed(partition), "strategies") == []
    assert await running.admin.exists(running.keys.sweep_lease("strategies")) == 0
    assert await running.report() is None


async def test_an_idle_service_stops_at_once(running: Serving) -> None:
    started = time.monotonic()
    await running.stop()
    assert time.monotonic() - started < 3


async def test_what_came_after_the_stop_is_left_to_others(
    servers: RunningServers, database_url: str, running: Serving
) -> None:
    await running.stop()
    event_id = await running.emit("a", "user_message")
    async with serving(servers.redis_url, database_url, running.keys) as other:
        await other.reached("a", event_id)
        await other.acknowledged()


# Trouble with events and code.


async def test_a_handler_that_fails_stops_its_own_stream_and_no_other(
    servers: RunningServers, database_url: str, keys: Keys, engine: AsyncEngine
) -> None:
    await create_tallies(engine)
    async with serving(servers.redis_url, database_url, keys, tallies()) as running:
        before = await running.emit("a", "add", {"n": 1})
        await running.emit("a", "fail")
        after = await running.emit("a", "add", {"n": 2})
        await running.reached("b", await running.emit("b", "add", {"n": 5}))
        await running.reached("a", before)
        await running.acknowledged()
        await running.reached("c", await running.emit("c", "add", {"n": 5}))
        await running.emit("a", "add", {"n": 3})
        await running.acknowledged()
        assert not await running.at("a", after)


async def test_a_part_that_dies_stops_the_service_with_its_error(
    running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Projector, "project_batch", die)
    await running.emit("a", "user_message")
    async with asyncio.timeout(5):
        with pytest.raises(ExceptionGroup) as caught:
            await running.running
    assert caught.group_contains(ZeroDivisionError, match="a bug")
    assert await running.pending() == 1


async def test_a_position_that_no_log_can_hold_stops_neither_sweep_nor_stream_of_others(
    servers: RunningServers, database_url: str, keys: Keys, engine: AsyncEngine, redis: Redis
) -> None:
    sql = "INSERT INTO stream_projections (stream_id, last_event_id, version) VALUES ('a', '', 1)"
    await run(engine, sql)
    for stream_id in ("a", "b"):
        await redis.xadd(keys.log(stream_id), {"op": "", "type": "user_message", "data": "{}"}, id="1-0")
    async with serving(servers.redis_url, database_url, keys) as running:
        await running.reached("b", "1-0")
        assert await running.at("a", "")


async def test_a_row_that_somebody_has_locked_holds_up_no_other_stream(
    servers: RunningServers, database_url: str, keys: Keys, engine: AsyncEngine
) -> None:
    async with serving(servers.redis_url, database_url, keys) as running:
        await running.reached("a", await running.emit("a", "user_message"))
        async with engine.begin() as other:
            await other.exec_driver_sql("SELECT FROM stream_projections FOR UPDATE")
            last = await running.emit("a", "user_message")
            await running.reached("b", await running.emit("b", "user_message"))
            assert not await running.at("a", last)
        await running.reached("a", last)
