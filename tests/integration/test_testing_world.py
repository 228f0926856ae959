"""The worlds of the test kit: what they show, and that each fault happens as they say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from sqlalchemy import text

from projections import strategies
from tests.impure import boards
from tests.orders import PAYLOADS, Lines, orders
from tests.servers import RunningServers
from tests.tallies import tallies
from worker import StreamBlockedError
from worker.embedded import Servers
from worker.hint import parse_hint
from worker.testing import Point, assert_replay_equals_live, event_sequences
from worker.testing.replay import StreamDraft
from worker.testing.servers import Databases
from worker.testing.world import World
from worker.testing.worlds import Worlds

APPLE: Lines = {"apple": {"quantity": 2, "price": None, "tags": []}}


@pytest.fixture
def worlds(servers: RunningServers, databases: Databases) -> Iterator[Worlds]:
    """What the plugin's fixture is, on the servers of this run."""
    worlds = Worlds(Servers(servers.admin_redis_url, servers.database_url), databases)
    yield worlds
    worlds.close()


async def put(world: World, stream_id: str, sku: str, quantity: int = 2) -> str:
    return await world.emit(stream_id, "put", sku=sku, columns={"quantity": quantity})


async def feed_entries(world: World, stream_id: str) -> list[tuple[str, str]]:
    """Stream and type of all hints in the partition of a stream."""
    partition = world.keys.partition(stream_id)
    entries = await world.redis.execute_command("XRANGE", world.keys.feed(partition), "-", "+")
    hints = [hint for raw_id, fields in entries if (hint := parse_hint(partition, raw_id, fields))]
    return [(hint.stream_id, hint.type) for hint in hints if hint.stream_id == stream_id]


# What a world shows.


async def test_events_become_rows(worlds: Worlds) -> None:
    async with worlds(orders()) as world:
        assert await world.row("a") is None
        await put(world, "a", "apple")
        last = await put(world, "a", "pear", 1)
        await world.emit("a", "no such type")
        await world.caught_up()
        row = await world.row("a")
        assert row is not None
        assert (row["status"], row["last_event_id"]) == ("new", last)
        assert await world.rows("lines", "a") == {**APPLE, "pear": {**APPLE["apple"], "quantity": 1}}
        await world.assert_rows_are_folds()


def test_a_world_needs_no_plugin_for_async_tests(worlds: Worlds) -> None:
    async def scenario() -> None:
        async with worlds(orders()) as world:
            await put(world, "a", "apple")
            await world.caught_up("a")
            assert await world.rows("lines", "a") == APPLE

    for _ in range(2):  # The second time is in another loop, with the row still there.
        asyncio.run(scenario())


async def test_a_worker_may_start_later_and_stop(worlds: Worlds) -> None:
    async with worlds(orders(), worker=False) as world:
        await put(world, "a", "apple")
        assert await world.row("a") is None
        await world.start()
        await world.caught_up()
        await world.stop()
        assert await world.rows("lines", "a") == APPLE
        await put(world, "b", "apple")
        with pytest.raises(AssertionError, match="hints are left to do"):
            await world._until_done(0.1)


async def test_the_shipped_projection_has_its_tables(worlds: Worlds) -> None:
    async with worlds(strategies) as world:
        await world.emit("a", "user_message")
        await world.caught_up()
        row = await world.row("a")
        assert row is not None
        assert row["message_count"] == 1
        await world.assert_rows_are_folds()


async def test_a_stream_that_stops_is_told_and_payloads_may_be_malformed(worlds: Worlds) -> None:
    async with worlds(tallies()) as world:
        await world.append("b", "add", b"no JSON")
        await world.append("b", "add", {"n": 3})
        await world.caught_up()
        await world.emit("a", "fail")
        with pytest.raises(StreamBlockedError, match="Stream a is blocked before event"):
            await world.caught_up("a")
        row = await world.row("b")
        assert row is not None
        assert row["total"] == 3


async def test_a_world_can_be_emptied(worlds: Worlds) -> None:
    async with worlds(orders()) as world:
        await put(world, "a", "apple")
        await world.caught_up()
        await world.stop()
        await world.empty()
        assert await world.row("a") is None
        assert await world.rows("lines", "a") == {}
        assert await world.redis.exists(world.keys.log("a")) == 0


async def test_rows_that_are_no_folds_are_told(worlds: Worlds) -> None:
    async with worlds(orders()) as world:
        await put(world, "a", "apple")
        await put(world, "b", "apple")
        await world.caught_up()
        async with world.engine.begin() as connection:
            await connection.execute(text("UPDATE order_lines SET quantity = 9 WHERE stream_id = 'a'"))
            await connection.execute(text("DELETE FROM orders WHERE stream_id = 'b'"))
        with pytest.raises(AssertionError) as failed:
            await world.assert_rows_are_folds()
        assert "stream 'a', lines[apple].quantity: expected 2, found 9" in str(failed.value)
        assert "stream 'b' has no row" in str(failed.value)


async def test_values_that_postgresql_rounds_are_no_difference(worlds: Worlds) -> None:
    async with worlds(orders()) as world:
        await world.emit("a", "put", sku="apple", columns={"quantity": 1, "price": 0.126})
        await world.caught_up()
        await world.assert_rows_are_folds()


async def test_child_rows_that_are_assigned_stop_their_stream_alone(worlds: Worlds) -> None:
    async with worlds(orders()) as world:
        await world.emit("a", "assign")
        await put(world, "b", "apple")
        await world.caught_up("b")
        with pytest.raises(StreamBlockedError):
            await world.caught_up("a")


async def test_what_a_worker_died_of_is_raised(worlds: Worlds) -> None:
    async with worlds(orders()) as world:
        assert world._worker is not None
        world._worker.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await world._unless_dead(asyncio.sleep(60))
        world._worker = None


def test_nothing_is_left_behind(servers: RunningServers, databases: Databases) -> None:
    worlds = Worlds(Servers(servers.admin_redis_url, servers.database_url), databases)

    async def scenario() -> str:
        async with worlds(orders()) as world:
            await put(world, "a", "apple")
            return world.keys.prefix

    prefix = asyncio.run(scenario())
    before = set(databases._made)
    worlds.close()
    assert len(before - databases._made) == 1

    async def left() -> list[bytes]:
        async with Redis.from_url(servers.admin_redis_url) as client:
            return [key async for key in client.scan_iter(f"{prefix}*")]

    assert asyncio.run(left()) == []


# Faults.


@pytest.mark.parametrize("point", list(Point))
async def test_a_worker_is_killed_at_a_point_and_another_takes_its_place(
    worlds: Worlds, point: Point
) -> None:
    async with worlds(orders()) as world:
        first = world._worker
        assert first is not None
        async with world.killed(at=point):
            await put(world, "a", "apple")
        assert first.task.done()
        assert world._worker is not first
        await world.caught_up()
        assert await world.rows("lines", "a") == APPLE


async def test_between_commit_and_acknowledgement_the_row_is_there_and_the_hint_is_pending(
    worlds: Worlds,
) -> None:
    async with worlds(orders()) as world:
        first = world._worker
        assert first is not None
        with first.dying_at(Point.PROJECTED):
            last = await put(world, "a", "apple")
            await first.died(world._servers)
        row = await world.row("a")
        assert row is not None
        assert row["last_event_id"] == last
        [group] = await world.redis.xinfo_groups(world.keys.feed(world.keys.partition("a")))
        assert group["pending"] == 1
        world._worker = None
        await world.start()
        await world.caught_up()
        [group] = await world.redis.xinfo_groups(world.keys.feed(world.keys.partition("a")))
        assert group["pending"] == 0


async def test_without_a_worker_nobody_is_killed(worlds: Worlds) -> None:
    async with worlds(orders(), worker=False) as world:
        with pytest.raises(RuntimeError, match="No worker runs"):
            async with world.killed():
                pass


async def test_hints_come_twice(worlds: Worlds) -> None:
    async with worlds(orders()) as world:
        async with world.duplicated_hints(times=3):
            await put(world, "a", "apple")
        await put(world, "a", "pear")
        await world.caught_up()
        assert await feed_entries(world, "a") == [("a", "put")] * 4
        assert (await world.rows("lines", "a")).keys() == {"apple", "pear"}


async def test_hints_come_in_the_reverse_order(worlds: Worlds) -> None:
    async with worlds(orders()) as world:
        async with world.reordered_hints():
            await put(world, "a", "apple", 1)
            await world.emit("a", "change", sku="apple", columns={"quantity": 2})
            assert await feed_entries(world, "a") == []
        await world.caught_up()
        assert await feed_entries(world, "a") == [("a", "change"), ("a", "put")]
        assert await world.rows("lines", "a") == APPLE


async def test_a_zombie_writes_too_late_and_changes_nothing(worlds: Worlds) -> None:
    async with worlds(orders()) as world:
        await put(world, "a", "pear")
        await world.caught_up()
        async with world.zombie("a") as zombie:
            await world.emit("a", "delete", sku="pear")
            await put(world, "a", "apple")
            await world.caught_up()
        assert zombie.lost
        assert await world.rows("lines", "a") == APPLE
        await world.assert_rows_are_folds()


async def test_a_zombie_that_was_not_late_is_told(worlds: Worlds) -> None:
    async with worlds(orders()) as world:
        await put(world, "a", "pear")
        await world.caught_up()
        with pytest.raises(AssertionError, match="did not come too late for stream 'a'"):
            async with world.zombie("a"):
                pass


# The law of replay.


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(event_sequences(orders(), PAYLOADS), st.integers(0, 1000))
def test_replay_equals_live_on_servers(worlds: Worlds, appended: list[StreamDraft], seed: int) -> None:
    assert_replay_equals_live(orders(), appended, world=worlds, seed=seed)


async def test_the_law_may_be_asked_for_within_a_loop(worlds: Worlds) -> None:
    appended = [("a", "put", {"sku": "x", "columns": {"quantity": n}}) for n in range(5)]
    assert_replay_equals_live(orders(), appended, world=worlds)


def test_a_row_that_postgresql_refuses_is_told(worlds: Worlds) -> None:
    appended = [("a", "put", {"sku": "x", "columns": {"quantity": 2**40}})]
    with pytest.raises(AssertionError, match="PostgreSQL refuses the row of stream 'a'"):
        assert_replay_equals_live(orders(), appended, world=worlds)


def test_a_handler_that_is_not_pure_is_found_before_servers_are_asked(worlds: Worlds) -> None:
    with pytest.raises(AssertionError, match="a second time"):
        assert_replay_equals_live(boards(), [("clock", {})], world=worlds)
