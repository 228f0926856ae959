"""Skimming: a deep backlog of hints is passed over as a whole, once all its streams are projected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.feeds import add_hints, feed_of, read_all, stream_ids
from tests.servers import RunningServers
from tests.serving import serving
from tests.writes import run
from worker import Keys, emit, log
from worker.feed import Feed
from worker.hint import Hint
from worker.skim import Skims

FULL = 10

Acknowledge = Callable[[Feed, Iterable[Hint]], Awaitable[None]]


@pytest.fixture
def client(either_client: Redis) -> Redis:
    return either_client


@pytest.fixture
def keys(keys_prefix: str) -> Keys:
    return Keys(keys_prefix, partitions=1)


async def behind(client: Redis, keys: Keys, *streams: str, consumer: str = "consumer") -> Feed:
    """A feed that has just read a full page of hints at other streams, and has these before it."""
    feed = feed_of(client, keys, consumer=consumer)
    await feed.join()
    await read_all(client, keys, feed)
    await add_hints(client, keys, *[f"read-{number}" for number in range(FULL)], *streams)
    await feed.acknowledge(await feed.read(FULL))
    return feed


async def delivered(client: Redis, keys: Keys) -> bytes:
    [group] = await client.xinfo_groups(keys.feed(0))
    found = group["last-delivered-id"]
    assert isinstance(found, bytes)
    return found


async def last_hint(client: Redis, keys: Keys) -> bytes:
    [(event_id, _)] = await client.execute_command("XREVRANGE", keys.feed(0), "+", "-", "COUNT", 1)
    assert isinstance(event_id, bytes)
    return event_id


async def test_a_backlog_is_skimmed_to_its_streams_each_once(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, *["a", "b", "a", "c", "b"] * 1_000)
    hints = await Skims(client, feed).begin()
    assert sorted(stream_ids(hints)) == ["a", "b", "c"]
    assert all(hint.skimmed for hint in hints)


async def test_where_a_read_was_not_full_nothing_is_skimmed(client: Redis, keys: Keys) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    await add_hints(client, keys, "a")
    await read_all(client, keys, feed)
    await add_hints(client, keys, "b")
    assert await Skims(client, feed).begin() == []
    assert stream_ids(await read_all(client, keys, feed)) == ["b"]


async def test_a_full_read_of_all_that_there_was_sets_nothing_aside(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys)
    assert await Skims(client, feed).begin() == []
    await add_hints(client, keys, "b")
    assert stream_ids(await read_all(client, keys, feed)) == ["b"]


async def test_the_group_is_moved_only_once_every_stream_is_settled(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, "a", "b", "a")
    skims = Skims(client, feed)
    before, last = await delivered(client, keys), await last_hint(client, keys)
    one, other = await skims.begin()
    await skims.settle([one])
    await skims.settle([one])
    assert await delivered(client, keys) == before
    await skims.settle([other])
    assert await delivered(client, keys) == last
    await add_hints(client, keys, "c")
    assert stream_ids(await read_all(client, keys, feed)) == ["c"]


async def test_a_skimmed_partition_is_not_read_meanwhile(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, "a")
    skims = Skims(client, feed)
    hints = await skims.begin()
    await add_hints(client, keys, "b")
    assert await feed.read(FULL) == []
    await skims.settle(hints)
    assert stream_ids(await feed.read(FULL)) == ["b"]


async def test_redis_goes_on_counting_what_the_group_has_read(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, *["a", "b"] * 700)
    skims = Skims(client, feed)
    await skims.settle(await skims.begin())
    [group] = await client.xinfo_groups(keys.feed(0))
    counts = "entries-read" in group  # from Redis 7 on
    assert group.get("lag") == (0 if counts else None)


async def test_who_dies_while_skimming_leaves_every_hint_to_others(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, "a", "b")
    skims = Skims(client, feed)
    [hint, _] = await skims.begin()
    await skims.settle([hint])
    heir = feed_of(client, keys, consumer="heir")
    await heir.join()
    assert stream_ids(await read_all(client, keys, heir)) == ["a", "b"]


@pytest.mark.parametrize("how", ["joined again", "let go"])
async def test_a_skim_is_forgotten_with_the_place_in_the_group(client: Redis, keys: Keys, how: str) -> None:
    feed = await behind(client, keys, "a", "b")
    skims = Skims(client, feed)
    hints = await skims.begin()
    if how == "joined again":
        await feed.join()
    else:
        feed.hold(())
        feed.hold({0})
    before = await delivered(client, keys)
    await skims.settle(hints)
    assert await delivered(client, keys) == before
    assert stream_ids(await read_all(client, keys, feed)) == ["a", "b"]


async def test_a_group_is_never_moved_back(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, "a")
    skims = Skims(client, feed)
    hints = await skims.begin()
    other = feed_of(client, keys, consumer="other")
    await other.join()
    [later] = await add_hints(client, keys, "b")
    assert stream_ids(await read_all(client, keys, other)) == ["a", "b"]
    beyond = await delivered(client, keys)
    assert beyond >= later
    await skims.settle(hints)
    assert await delivered(client, keys) == beyond


async def test_a_hint_that_another_replica_has_in_hand_stays_its_own(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, "a")
    skims = Skims(client, feed)
    hints = await skims.begin()
    other = feed_of(client, keys, consumer="other")
    await other.join()
    assert await other.read(FULL) == []  # own pending ones come first
    assert stream_ids(await other.read(FULL)) == ["a"]
    await skims.settle(hints)
    [group] = await client.xinfo_groups(keys.feed(0))
    assert group["pending"] == 1


async def test_a_stream_that_does_not_get_on_is_hinted_at_anew(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, "a", "b")
    skims = Skims(client, feed)
    by_stream = {hint.stream_id: hint for hint in await skims.begin()}
    await skims.put_off([by_stream["a"]])
    await skims.settle([by_stream["b"]])
    assert stream_ids(await read_all(client, keys, feed)) == ["a"]


async def test_a_stream_that_goes_on_not_getting_on_is_hinted_at_once_only(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, "a", "b")
    skims = Skims(client, feed)
    by_stream = {hint.stream_id: hint for hint in await skims.begin()}
    await skims.put_off([by_stream["a"]])
    await skims.put_off([by_stream["a"]])
    await skims.settle([by_stream["b"]])
    await skims.put_off([by_stream["a"]])
    assert stream_ids(await read_all(client, keys, feed)) == ["a"]


async def test_hints_that_say_nothing_are_counted_and_passed_over(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys)
    for field, value in (("other", b"a"), ("stream", b"\xff"), ("stream", b"a")):
        await client.xadd(keys.feed(0), {field: value})
    assert stream_ids(await Skims(client, feed).begin()) == ["a"]
    assert feed.malformed == 2


async def test_a_feed_that_was_deleted_meanwhile_ends_the_skim(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, "a")
    skims = Skims(client, feed)
    hints = await skims.begin()
    await client.delete(keys.feed(0))
    await skims.settle(hints)
    assert feed.aside(0) is None


# In a service.


async def fill(redis: Redis, keys: Keys, streams: int, hints: int) -> dict[str, str]:
    """Append an event to each stream, with many hints at them; where each row must stand."""
    last = {
        f"s{number}": await emit(redis, f"s{number}", "", "user_message", {}, keys=keys)
        for number in range(streams)
    }
    for _ in range(hints // streams):
        await add_hints(redis, keys, *last)
    return last


async def test_a_service_passes_over_a_backlog_and_then_reads_on(
    servers: RunningServers,
    database_url: str,
    redis: Redis,
    keys_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = Keys(keys_prefix)
    last = await fill(redis, keys, streams=40, hints=16_000)
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
    servers: RunningServers, database_url: str, engine: AsyncEngine, redis: Redis, keys_prefix: str
) -> None:
    keys = Keys(keys_prefix)
    last = await fill(redis, keys, streams=40, hints=16_000)
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
    keys_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = Keys(keys_prefix)
    monkeypatch.setattr(log, "_MAX_ENTRIES", 8)
    last = await fill(redis, keys, streams=40, hints=16_000)
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
