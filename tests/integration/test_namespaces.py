"""Projections with logs of their own, and projections of some streams only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.projecting import Replica, run
from tests.servers import RunningServers
from tests.serving import serving
from tests.sweeping import SweepingReplica
from tests.tallies import MAKE_TABLE, tallies
from worker import Keys, Obstacle, Refusal, emit, rebuild_streams, verify_streams
from worker.errors import DeclarationError, StreamLeftOutError
from worker.hinting import hint_streams
from worker.log_scan import LogScan
from worker.projected import wait_until_projected
from worker.scope import Scope, find_streams
from worker.show import show_stream
from worker.standing import Standing
from worker.survey import Survey, Surveyor
from worker.verify import Verifier


@pytest.fixture
async def tallied(engine: AsyncEngine) -> AsyncEngine:
    await run(engine, MAKE_TABLE)
    return engine


async def test_two_logs_of_one_stream_id_are_told_apart(
    servers: RunningServers,
    database_url: str,
    tallied: AsyncEngine,
    redis: Redis,
    producer: Redis,
    client: Redis,
    keys: Keys,
) -> None:
    """A hint says nothing of whose log has news: each group looks at its own, and finds nothing or more."""
    orders = tallies(logs="orders:")
    servers.guard(keys.prefix, logs=[orders.logs])
    assert orders.keys(keys) == replace(keys, logs="orders:") == Keys(keys.prefix, logs="orders:")
    async with (
        serving(servers.redis_url, database_url, keys) as chats,
        serving(servers.redis_url, database_url, keys, orders) as sums,
    ):
        chat = await emit(producer, "x", "", "user_message", {}, keys=keys)
        order = await emit(producer, "x", "", "add", {"n": 2}, keys=orders.keys(keys))
        await hint_streams(client, keys, ["x"])
        await chats.reached("x", chat)
        await sums.reached("x", order)
        await chats.acknowledged()
        await sums.acknowledged()
        # A log in one place only makes no row, and no trouble, in the other.
        lone = await emit(producer, "y", "", "add", {"n": 1}, keys=orders.keys(keys))
        await hint_streams(client, keys, ["y"])
        await sums.reached("y", lone)
        await chats.acknowledged()
        assert await chats.world.positions("x", "y") == [chat, None]
        await wait_until_projected(tallied, "y", lone, 5, projection=orders, redis=redis, keys=keys)
    assert not await verify_obstacles(redis, tallied, orders, keys, "x", "y")
    sweeping = SweepingReplica(redis, keys, tallied, orders)
    report, queued = await sweeping.sweep()
    assert (report.streams, queued) == (2, set())


async def verify_obstacles(
    redis: Redis, engine: AsyncEngine, projection: Any, keys: Keys, *streams: str
) -> list[Any]:
    found = await verify_streams(redis, engine, projection, streams, keys=keys)
    return [finding for finding in found if finding.wrong or finding.obstacle]


async def test_only_streams_that_match_are_projected(
    servers: RunningServers,
    database_url: str,
    tallied: AsyncEngine,
    producer: Redis,
    client: Redis,
    keys: Keys,
) -> None:
    european = tallies(streams="eu-*")
    async with serving(servers.redis_url, database_url, keys, european) as running:
        await emit(producer, "us-1", "", "add", {"n": 1}, keys=keys)
        await hint_streams(client, keys, ["us-1"])
        await running.reached("eu-1", await running.emit("eu-1", "add", {"n": 1}))
        await running.acknowledged()
        assert await running.world.positions("us-1") == [None]


async def test_a_backlog_of_hints_at_streams_left_out_is_passed_over(
    servers: RunningServers, database_url: str, tallied: AsyncEngine, redis: Redis, client: Redis, keys: Keys
) -> None:
    for _ in range(10):
        await hint_streams(client, keys, [f"us-{number}" for number in range(800)])
    async with serving(servers.redis_url, database_url, keys, tallies(streams="eu-*")) as running:
        await running.reached("eu-1", await running.emit("eu-1", "add", {"n": 1}))
        await running.acknowledged()


async def test_a_sweep_passes_over_streams_left_out_and_their_rows(
    client: Redis, redis: Redis, tallied: AsyncEngine, keys: Keys
) -> None:
    everything = SweepingReplica(client, keys, tallied, tallies())
    for stream_id in ("us-old", "us-gone"):
        await everything.append(stream_id, "add", {"n": 1})
    await everything.sweep()
    await redis.delete(keys.log("us-gone"))
    await redis.delete(keys.sweep_lease("tallies"))
    for stream_id in ("us-old", "us-new", "eu-é"):
        await everything.append(stream_id, "add", {"n": 1})
    some = SweepingReplica(client, keys, tallied, tallies(streams="eu-?"))
    await some.diverged.add("us-old", "1-0")
    for expected in ({"eu-é"}, set[str]()):
        report, queued = await some.sweep()
        assert queued == expected
        assert (report.streams, report.vanished, report.unusable_keys) == (1, 0, 0)


async def left_out(client: Redis, engine: AsyncEngine, keys: Keys) -> Replica:
    """A projection that leaves out a stream which it once took, and which has news since."""
    everything = Replica(client, keys, engine, tallies())
    await everything.append("us-1", "add", {"n": 1})
    await everything.project("us-1")
    await everything.append("us-1", "add", {"n": 1})
    return Replica(client, keys, engine, tallies(streams="eu-*"))


async def rebuilds(some: Replica) -> str:
    [rebuilt] = await rebuild_streams(some.redis, some.engine, some.projection, ["us-1"], keys=some.keys)
    assert rebuilt.refusal is Refusal.LEFT_OUT
    assert await find_streams(Scope(), some.logs, some.store, some.projection) == []
    return rebuilt.detail


async def verifies(some: Replica) -> str:
    survey = Survey(limit=10)
    verifier = Verifier(some.logs, some.engine, some.projection)
    scan = LogScan(some.redis, some.keys, some.projection.streams)
    await Surveyor(verifier, scan, some.store).survey_table(1, survey)
    assert (survey.wrong, survey.rows_compared, survey.obstacles[Obstacle.LEFT_OUT]) == (0, 0, 1)
    [found] = await verify_streams(some.redis, some.engine, some.projection, ["us-1"], keys=some.keys)
    assert found.obstacle is Obstacle.LEFT_OUT
    assert not found.wrong
    return found.detail


async def waits(some: Replica) -> str:
    with pytest.raises(StreamLeftOutError) as caught:
        await wait_until_projected(some.engine, "us-1", "9-0", 5, projection=some.projection)
    return str(caught.value)


async def shows(some: Replica) -> str:
    view = await show_stream(some.redis, some.engine, some.projection, "us-1", keys=some.keys)
    assert view.standing is Standing.LEFT_OUT
    assert view.row is not None
    return some.projection.left_out("us-1")


@pytest.mark.parametrize("ask", [rebuilds, verifies, waits, shows])
async def test_who_asks_for_a_stream_left_out_is_told_so(
    ask: Callable[[Replica], Awaitable[str]], client: Redis, tallied: AsyncEngine, keys: Keys
) -> None:
    some = await left_out(client, tallied, keys)
    row = await some.row("us-1")
    assert await ask(some) == (
        "Projection tallies leaves stream 'us-1' out: it takes only those that match 'eu-*'."
    )
    assert await some.row("us-1") == row


def test_the_shipped_projection_has_the_usual_logs() -> None:
    assert strategies.keys(Keys("app:", logs="orders:")).log("x") == "app:stream:x"
    with pytest.raises(ValueError, match="logs is empty"):
        Keys(logs="")
    with pytest.raises(DeclarationError):
        tallies(logs="stream:\n")
