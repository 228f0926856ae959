"""Skimming: a deep backlog of hints is passed over as a whole, once all its streams are projected."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from tests.feeds import add_hints, feed_of, read_all, stream_ids
from tests.rights import ADMINISTRATOR, client_as
from worker import Keys, skim
from worker.feed import Feed
from worker.hint import Hint
from worker.skim import Skims

FULL = 10
TYPES = {"user_message"}


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
    [group] = await client_as(client, ADMINISTRATOR).xinfo_groups(keys.feed(0))
    found = group["last-delivered-id"]
    assert isinstance(found, bytes)
    return found


async def last_hint(client: Redis, keys: Keys) -> bytes:
    [(event_id, _)] = await client_as(client, ADMINISTRATOR).execute_command(
        "XREVRANGE", keys.feed(0), "+", "-", "COUNT", 1
    )
    assert isinstance(event_id, bytes)
    return event_id


async def test_a_backlog_is_skimmed_to_its_streams_each_once(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, *["a", "b", "a", "c", "b"] * 1_000)
    hints = await Skims(client, feed, TYPES).begin()
    assert sorted(stream_ids(hints)) == ["a", "b", "c"]
    assert all(hint.skimmed for hint in hints)


async def test_only_so_many_hints_are_skimmed_at_a_time(
    client: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skim, "_MOST_HINTS", 2_000)
    feed = await behind(client, keys, *["a"] * 2_000, "b")
    skims = Skims(client, feed, TYPES)
    hints = await skims.begin()
    assert stream_ids(hints) == ["a"]
    await skims.settle(hints)
    assert stream_ids(await read_all(client, keys, feed)) == ["b"]


async def test_hints_of_types_that_are_not_projected_name_no_streams(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    feed = await behind(client, keys)
    kinds: list[Any] = [{"type": "delta"}, {"type": "user_message"}, {"type": ""}, {}]
    for number, kind in enumerate(kinds):
        await redis.xadd(keys.feed(0), {"stream": f"s{number}", **kind})
    skims = Skims(client, feed, TYPES)
    hints = await skims.begin()
    assert sorted(stream_ids(hints)) == ["s1", "s2", "s3"]
    await skims.settle(hints)
    assert await delivered(client, keys) == await last_hint(client, keys)


async def test_where_a_read_was_not_full_nothing_is_skimmed(client: Redis, keys: Keys) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    await add_hints(client, keys, "a")
    await read_all(client, keys, feed)
    await add_hints(client, keys, "b")
    assert await Skims(client, feed, TYPES).begin() == []
    assert stream_ids(await read_all(client, keys, feed)) == ["b"]


async def test_a_full_read_of_all_that_there_was_sets_nothing_aside(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys)
    assert await Skims(client, feed, TYPES).begin() == []
    await add_hints(client, keys, "b")
    assert stream_ids(await read_all(client, keys, feed)) == ["b"]


async def test_the_group_is_moved_only_once_every_stream_is_settled(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, "a", "b", "a")
    skims = Skims(client, feed, TYPES)
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
    skims = Skims(client, feed, TYPES)
    hints = await skims.begin()
    await add_hints(client, keys, "b")
    assert await feed.read(FULL) == []
    await skims.settle(hints)
    assert stream_ids(await feed.read(FULL)) == ["b"]


async def test_redis_goes_on_counting_what_the_group_has_read(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    feed = await behind(client, keys, *["a", "b"] * 700)
    skims = Skims(client, feed, TYPES)
    await skims.settle(await skims.begin())
    [group] = await redis.xinfo_groups(keys.feed(0))
    counts = "entries-read" in group  # from Redis 7 on
    assert group.get("lag") == (0 if counts else None)


async def test_who_dies_while_skimming_leaves_every_hint_to_others(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, "a", "b")
    skims = Skims(client, feed, TYPES)
    [hint, _] = await skims.begin()
    await skims.settle([hint])
    heir = feed_of(client, keys, consumer="heir")
    await heir.join()
    assert stream_ids(await read_all(client, keys, heir)) == ["a", "b"]


@pytest.mark.parametrize("how", ["joined again", "let go"])
async def test_a_skim_is_forgotten_with_the_place_in_the_group(client: Redis, keys: Keys, how: str) -> None:
    feed = await behind(client, keys, "a", "b")
    skims = Skims(client, feed, TYPES)
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
    skims = Skims(client, feed, TYPES)
    hints = await skims.begin()
    other = feed_of(client, keys, consumer="other")
    await other.join()
    [later] = await add_hints(client, keys, "b")
    assert stream_ids(await read_all(client, keys, other)) == ["a", "b"]
    beyond = await delivered(client, keys)
    assert beyond >= later
    await skims.settle(hints)
    assert await delivered(client, keys) == beyond


async def test_what_another_replica_has_read_meanwhile_is_not_counted_twice(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    feed = await behind(client, keys, "a", "b")
    skims = Skims(client, feed, TYPES)
    hints = await skims.begin()
    other = feed_of(client, keys, consumer="other")
    await other.join()
    assert await other.read(1) == []  # own pending ones come first
    assert stream_ids(await other.read(1)) == ["a"]
    await skims.settle(hints)
    await feed.read(FULL)
    [group] = await redis.xinfo_groups(keys.feed(0))
    counts = "entries-read" in group  # from Redis 7 on
    assert group.get("lag") == (0 if counts else None)


async def test_a_skim_that_begins_while_the_one_before_ends_is_not_forgotten(
    client: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = await behind(client, keys, "a")
    skims, later = Skims(client, feed, TYPES), list[Hint]()
    hints = await skims.begin()
    move_past = skim._MOVE_PAST

    async def move_slowly(*arguments: Any) -> Any:
        moved = await move_past(*arguments)
        await feed.join()
        await read_all(client, keys, feed)
        await add_hints(client, keys, *["read"] * FULL, "b")
        await feed.read(FULL)
        later.extend(await skims.begin())
        return moved

    monkeypatch.setattr(skim, "_MOVE_PAST", move_slowly)
    await skims.settle(hints)
    monkeypatch.setattr(skim, "_MOVE_PAST", move_past)
    assert stream_ids(later) == ["b"]
    await skims.settle(later)
    assert feed.aside(0) is None
    assert await delivered(client, keys) == await last_hint(client, keys)


async def test_the_group_is_not_moved_in_a_feed_that_was_made_anew(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    feed = await behind(client, keys, "a")
    skims = Skims(client, feed, TYPES)
    hints = await skims.begin()
    await redis.delete(keys.feed(0))
    await feed_of(client, keys, consumer="other").join()
    await skims.settle(hints)
    assert await delivered(client, keys) == b"0-0"


async def test_a_hint_that_another_replica_has_in_hand_stays_its_own(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    feed = await behind(client, keys, "a")
    skims = Skims(client, feed, TYPES)
    hints = await skims.begin()
    other = feed_of(client, keys, consumer="other")
    await other.join()
    assert await other.read(FULL) == []  # own pending ones come first
    assert stream_ids(await other.read(FULL)) == ["a"]
    await skims.settle(hints)
    [group] = await redis.xinfo_groups(keys.feed(0))
    assert group["pending"] == 1


async def test_a_stream_that_does_not_get_on_is_hinted_at_anew(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, "a", "b")
    skims = Skims(client, feed, TYPES)
    by_stream = {hint.stream_id: hint for hint in await skims.begin()}
    await skims.put_off([by_stream["a"]])
    await skims.settle([by_stream["b"]])
    assert stream_ids(await read_all(client, keys, feed)) == ["a"]


async def test_a_stream_that_goes_on_not_getting_on_is_hinted_at_once_only(client: Redis, keys: Keys) -> None:
    feed = await behind(client, keys, "a", "b")
    skims = Skims(client, feed, TYPES)
    by_stream = {hint.stream_id: hint for hint in await skims.begin()}
    await skims.put_off([by_stream["a"]])
    await skims.put_off([by_stream["a"]])
    await skims.settle([by_stream["b"]])
    await skims.put_off([by_stream["a"]])
    assert stream_ids(await read_all(client, keys, feed)) == ["a"]


async def test_hints_that_say_nothing_are_counted_and_passed_over(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    feed = await behind(client, keys)
    for field, value in (("other", b"a"), ("stream", b"\xff"), ("stream", b"a")):
        await redis.xadd(keys.feed(0), {field: value})
    skims = Skims(client, feed, TYPES)
    hints = await skims.begin()
    assert stream_ids(hints) == ["a"]
    await skims.settle(hints)
    assert feed.malformed == 2


async def test_hints_that_say_nothing_are_not_counted_twice_where_they_are_read_after_all(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    feed = await behind(client, keys)
    await redis.xadd(keys.feed(0), {"other": b"a"})
    assert await Skims(client, feed, TYPES).begin() == []
    assert await read_all(client, keys, feed) == []
    assert feed.malformed == 1


async def test_a_feed_that_was_deleted_meanwhile_ends_the_skim(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    feed = await behind(client, keys, "a")
    skims = Skims(client, feed, TYPES)
    hints = await skims.begin()
    await redis.delete(keys.feed(0))
    await skims.settle(hints)
    assert feed.aside(0) is None
