"""A service that passes over a deep backlog of hints, and what must not hold it up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.feeds import add_hints
from tests.projecting import run
from tests.servers import RunningServers
from tests.serving import serving
from worker import Keys, emit, log
from worker.feed import Feed
from worker.hint import Hint

Acknowledge = Callable[[Feed, Iterable[Hint]], Awaitable[None]]


async def fill(producer: Redis, keys: Keys, streams: int, hints: int) -> dict[str, str]:
    """Append an event to each stream, with many hints at them; where each row must stand."""
    last = {
        f"s{number}": await emit(producer, f"s{number}", "", "user_message", {}, keys=keys)
        for number in range(streams)
    }
    for _ in range(hints // streams):
        await add_hints(producer, keys, *last)
    return last


async def test_a_service_passes_over_a_backlog_and_then_reads_on(
    servers: RunningServers,
    database_url: str,
    redis: Redis,
    producer: Redis,
    keys_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = Keys(keys_prefix)
    last = await fill(producer, keys, streams=40, hints=16_000)
    acknowledged: list[Hint] = []
    monkeypatch.setattr(Feed, "acknowledge", noting(acknowledged, Feed.acknowledge))
    async with serving(servers.redis_url, database_url, keys) as running:
        for stream_id, event_id in last.items():
            await running.reached(stream_id, event_id)
        await running.acknowledged()
        await running.reached("s0", await running.emit("s0", "user_message"))
        await running.acknowledged()
    assert len(acknowledged) < 4_000


def noting(found: list[Hint], acknowledge: Acknowledge) -> Acknowledge:
    async def note(feed: Feed, hints: Iterable[Hint]) -> None:
        hints = list(hints)
        found.extend(hints)
        await acknowledge(feed, hints)

    return note


async def test_a_locked_row_in_a_backlog_holds_up_no_later_hint(
    servers: RunningServers,
    database_url: str,
    engine: AsyncEngine,
    redis: Redis,
    producer: Redis,
    keys_prefix: str,
) -> None:
    keys = Keys(keys_prefix)
    last = await fill(producer, keys, streams=40, hints=16_000)
    await run(engine, "INSERT INTO stream_projections (stream_id, last_event_id) VALUES ('s0', NULL)")
    async with engine.begin() as other:
        await other.exec_driver_sql("SELECT FROM stream_projections WHERE stream_id = 's0' FOR UPDATE")
        async with serving(servers.redis_url, database_url, keys) as running:
            for stream_id, event_id in last.items():
                if stream_id != "s0":
                    await running.reached(stream_id, event_id)
            twin = next(s for s in last if s != "s0" and keys.partition(s) == keys.partition("s0"))
            await running.reached(twin, await running.emit(twin, "user_message"))
            assert not await running.at("s0", last["s0"])
            await other.rollback()
            await running.reached("s0", last["s0"])
            await running.acknowledged()


async def test_a_long_log_in_a_backlog_holds_up_no_later_hint(
    servers: RunningServers,
    database_url: str,
    redis: Redis,
    producer: Redis,
    keys_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = Keys(keys_prefix)
    monkeypatch.setattr(log, "_MAX_ENTRIES", 8)
    last = await fill(producer, keys, streams=40, hints=16_000)
    pipeline = redis.pipeline(transaction=False)
    for _ in range(8_000):
        pipeline.xadd(keys.log("s0"), {"op": "", "type": "user_message", "data": "{}"})
    end = (await pipeline.execute())[-1].decode()
    async with serving(servers.redis_url, database_url, keys) as running:
        for stream_id, event_id in last.items():
            if stream_id != "s0":
                await running.reached(stream_id, event_id)
        twin = next(s for s in last if s != "s0" and keys.partition(s) == keys.partition("s0"))
        await running.reached(twin, await running.emit(twin, "user_message"))
        assert not await running.at("s0", end)
        await running.reached("s0", end)
        await running.acknowledged()
