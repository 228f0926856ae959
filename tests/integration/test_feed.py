"""The feed: hints are read once by each group, and kept until they are acknowledged."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from tests.feeds import GROUP, add_hints, feed_of, pending_of, read_all, stream_ids, upkeep_of
from tests.proxy import redis_proxy
from tests.rights import ADMINISTRATOR, client_as
from tests.servers import RunningServers
from tests.waiting import wait_until
from worker import Keys
from worker.errors import FeedPartitionsError
from worker.feed import is_missing_group
from worker.hint import Hint
from worker.redis_client import make_client


@pytest.fixture
def client(either_client: Redis) -> Redis:
    return either_client


# Joining.


async def test_a_new_group_reads_the_feed_from_its_start(client: Redis, keys: Keys) -> None:
    [early] = await add_hints(client, keys, "a")
    feed = feed_of(client, keys)
    await feed.join()
    assert await read_all(client, keys, feed) == [Hint(keys.partition("a"), early, "a", "user_message")]


async def test_joining_makes_every_partition_of_the_feed(client: Redis, redis: Redis, keys: Keys) -> None:
    await feed_of(client, keys).join()
    for partition in range(keys.partitions):
        assert [group["name"] for group in await redis.xinfo_groups(keys.feed(partition))] == [b"group"]
    assert await redis.get(keys.feed_partitions) == b"8"


async def test_joining_again_changes_nothing(client: Redis, keys: Keys) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    await add_hints(client, keys, "a", "b")
    await feed.acknowledge(await read_all(client, keys, feed))
    await feed.join()
    await feed_of(client, keys, consumer="other").join()
    assert await read_all(client, keys, feed) == []


async def test_a_worker_with_another_number_of_partitions_is_refused(
    client: Redis, redis: Redis, keys_prefix: str
) -> None:
    await feed_of(client, Keys(keys_prefix, partitions=4)).join()
    with pytest.raises(FeedPartitionsError, match="set WORKER_FEED_PARTITIONS=4"):
        await feed_of(client, Keys(keys_prefix, partitions=8)).join()
    assert await redis.exists(Keys(keys_prefix).feed(7)) == 0


async def is_blocked(client: Redis) -> bool:
    """Whether a client named like this one waits for an entry."""
    return bool((await client_as(client, ADMINISTRATOR).info("clients"))["blocked_clients"])


# Reading.


async def test_every_hint_is_read_once_by_one_consumer_of_a_group(client: Redis, keys: Keys) -> None:
    feeds = [feed_of(client, keys, consumer=name) for name in ("one", "two")]
    for feed in feeds:
        await feed.join()
        assert await read_all(client, keys, feed) == []
    streams = [f"s{number}" for number in range(40)]
    await add_hints(client, keys, *streams)
    taken = [stream_ids(await feed.read(count)) for feed, count in zip(feeds, (2, 100), strict=True)]
    assert len(taken[0]) == 16
    assert sorted(taken[0] + taken[1]) == sorted(streams)


async def test_every_group_reads_every_hint(client: Redis, keys: Keys) -> None:
    await add_hints(client, keys, "a")
    for group in ("first", "second"):
        feed = feed_of(client, keys, group=group)
        await feed.join()
        assert stream_ids(await read_all(client, keys, feed)) == ["a"]


async def test_hints_of_a_partition_come_in_order(client: Redis, keys_prefix: str) -> None:
    keys = Keys(keys_prefix, partitions=1)
    feed = feed_of(client, keys)
    await feed.join()
    await add_hints(client, keys, "c", "a", "b", "a")
    assert stream_ids(await read_all(client, keys, feed)) == ["c", "a", "b", "a"]


async def test_a_stream_id_is_text_of_any_kind(client: Redis, keys: Keys) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    await add_hints(client, keys, "é", "\U0001f9ec", "a:b", " ", "")
    assert sorted(stream_ids(await read_all(client, keys, feed))) == sorted(
        ["é", "\U0001f9ec", "a:b", " ", ""]
    )


async def test_reading_waits_for_a_hint(client: Redis, keys: Keys) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    assert await read_all(client, keys, feed) == []
    reading = asyncio.create_task(feed.read(10, timedelta(seconds=9)))
    await wait_until(partial(is_blocked, client), "the reader to wait")
    await add_hints(client, keys, "a")
    async with asyncio.timeout(5):
        assert stream_ids(await reading) == ["a"]


async def test_reading_gives_up_when_no_hint_comes(client: Redis, keys: Keys) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    assert await read_all(client, keys, feed) == []
    async with asyncio.timeout(5):
        assert await feed.read(10, timedelta(milliseconds=1)) == []


async def test_a_hint_without_a_type_still_names_its_stream(client: Redis, redis: Redis, keys: Keys) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    await redis.xadd(keys.feed(0), {"stream": "a"})
    [hint] = await read_all(client, keys, feed)
    assert (hint.stream_id, hint.type) == ("a", "")


# What is delivered and not acknowledged.


async def test_what_was_acknowledged_does_not_come_back(client: Redis, keys: Keys) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    await add_hints(client, keys, "a", "b", "c")
    hints = await read_all(client, keys, feed)
    await feed.acknowledge([hint for hint in hints if hint.stream_id != "b"])
    await feed.join()
    assert stream_ids(await read_all(client, keys, feed)) == ["b"]


async def test_own_pending_hints_come_first_page_by_page(client: Redis, keys_prefix: str) -> None:
    keys = Keys(keys_prefix, partitions=2)
    feed = feed_of(client, keys)
    await feed.join()
    before = [f"s{number}" for number in range(9)]
    await add_hints(client, keys, *before)
    await read_all(client, keys, feed)
    await feed.join()
    await add_hints(client, keys, "new")
    found: list[str] = []
    while "new" not in (page := stream_ids(await feed.read(2))):
        assert len(page) <= 2 * keys.partitions
        found += page
    assert sorted(found) == sorted(before)
    assert page == ["new"]


async def test_hints_whose_reply_was_lost_are_read_again(servers: RunningServers, keys: Keys) -> None:
    with redis_proxy(servers.redis_url) as proxy:
        client = make_client(proxy.url)
        feed = feed_of(client, keys)
        await feed.join()
        assert await read_all(client, keys, feed) == []
        await add_hints(client, keys, "a", "b")
        proxy.lose = b"XREADGROUP"
        with pytest.raises(RedisError):
            await feed.read(10)
        proxy.lose = None
        await feed.join()
        assert sorted(stream_ids(await read_all(client, keys, feed))) == ["a", "b"]
        await client.aclose()


async def test_a_group_that_was_deleted_is_made_again(client: Redis, redis: Redis, keys: Keys) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    await add_hints(client, keys, "a")
    assert await read_all(client, keys, feed)
    await redis.xgroup_destroy(keys.feed(0), GROUP)
    with pytest.raises(ResponseError) as caught:
        await feed.read(10)
    assert is_missing_group(caught.value)
    await feed.join()
    assert set(stream_ids(await read_all(client, keys, feed))) <= {"a"}


async def test_a_feed_that_is_deleted_under_a_waiting_reader_is_made_again(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    assert await read_all(client, keys, feed) == []
    reading = asyncio.create_task(feed.read(10, timedelta(milliseconds=200)))
    await wait_until(partial(is_blocked, client), "the reader to wait")
    await redis.delete(*(keys.feed(partition) for partition in range(keys.partitions)))
    with pytest.raises(ResponseError) as caught:  # noqa: PT012 — Redis 6.2 tells the next reader only.
        await reading
        await feed.read(10)
    assert is_missing_group(caught.value)
    await feed.join()
    await add_hints(client, keys, "a")
    assert stream_ids(await read_all(client, keys, feed)) == ["a"]


def test_other_errors_do_not_mean_that_the_group_is_missing() -> None:
    assert not is_missing_group(ResponseError("WRONGTYPE Operation against a key"))
    assert not is_missing_group(RedisError("NOGROUP"))


# Leaving.


async def test_a_consumer_without_pending_hints_is_removed(client: Redis, redis: Redis, keys: Keys) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    await add_hints(client, keys, "a")
    await feed.acknowledge(await read_all(client, keys, feed))
    assert await feed.leave() is True
    for partition in range(keys.partitions):
        assert await redis.xinfo_consumers(keys.feed(partition), GROUP) == []


async def test_a_consumer_with_pending_hints_stays_until_they_are_claimed(client: Redis, keys: Keys) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    await add_hints(client, keys, "a")
    await read_all(client, keys, feed)
    assert await feed.leave() is False
    assert await pending_of(client, keys) == 1
    other = feed_of(client, keys, consumer="other")
    await other.join()
    assert stream_ids(await upkeep_of(client, keys, other).claim_abandoned(timedelta(0))) == ["a"]
    assert await feed.leave() is True
