"""Keys of the feed that hold something else: they are named, and the rest of the feed is read."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from tests.feeds import add_hints, feed_of, pending_of, read_all, stream_ids, upkeep_of
from worker import Keys
from worker import feed as feed_module
from worker.feed import Feed
from worker.trouble import Trouble, classify

WRONG = 3


@pytest.fixture
def client(either_client: Redis) -> Redis:
    return either_client


@pytest.fixture
def told() -> list[str]:
    """Grows each time a feed says that hints may be lost."""
    return []


@pytest.fixture
async def feed(client: Redis, redis: Redis, keys: Keys, told: list[str]) -> Feed:
    """A feed that was joined while one of its keys was a string."""
    await redis.set(keys.feed(WRONG), "text")
    feed = feed_of(client, keys)
    feed.hints_lost = lambda: told.append("lost")
    await feed.join()
    return feed


def streams_of(keys: Keys, partition: int) -> list[str]:
    names = (f"s{number}" for number in range(1000))
    return [name for name in names if keys.partition(name) == partition][:3]


async def test_other_partitions_are_read(client: Redis, keys: Keys, feed: Feed, told: list[str]) -> None:
    assert told
    hinted = [name for partition in (0, 2, 7) for name in streams_of(keys, partition)]
    await add_hints(client, keys, *hinted)
    hints = await read_all(client, keys, feed)
    assert sorted(stream_ids(hints)) == sorted(hinted)
    await feed.acknowledge(hints)
    assert feed.held == [0, 1, 2, 4, 5, 6, 7]


async def test_upkeep_and_leaving_pass_it_over(client: Redis, keys: Keys, feed: Feed) -> None:
    upkeep = upkeep_of(client, keys, feed)
    await upkeep.trim()
    assert await upkeep.inherit() == []
    assert await feed.leave()


async def test_it_is_logged_once(client: Redis, redis: Redis, keys: Keys) -> None:
    await redis.set(keys.feed(WRONG), "text")
    feed = feed_of(client, keys)
    with capture_logs() as lines:
        for _ in range(3):
            await feed.join()
    [line] = lines
    assert (line["event"], line["key"]) == ("feed_key_unusable", keys.feed(WRONG))


async def test_a_partition_that_is_a_stream_again_is_read_again(
    client: Redis, redis: Redis, keys: Keys, feed: Feed, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await redis.delete(keys.feed(WRONG))
    [first, second, *_] = streams_of(keys, WRONG)
    await add_hints(client, keys, first)
    assert await read_all(client, keys, feed) == []
    told.clear()
    feed._look_again_at = 0.0
    assert stream_ids(await read_all(client, keys, feed)) == [first]
    assert told
    await add_hints(client, keys, second)
    assert stream_ids(await read_all(client, keys, feed)) == [second]


async def test_a_partition_that_is_lost_with_hints_in_hand_is_left_out(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    feed = feed_of(client, keys)
    await feed.join()
    streams = [*streams_of(keys, WRONG), *streams_of(keys, 1)]
    await add_hints(client, keys, *streams)
    hints = await read_all(client, keys, feed)
    await redis.set(keys.feed(WRONG), "text")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await feed.read(10)
    await feed.join()
    assert len(await read_all(client, keys, feed)) == 3  # its own pending hints, from the other partition
    await feed.acknowledge(hints)
    await redis.delete(keys.feed(WRONG))
    await feed.join()
    assert await pending_of(client, keys) == 0


async def test_partitions_may_all_be_lost(client: Redis, redis: Redis, keys: Keys) -> None:
    for partition in range(keys.partitions):
        await redis.set(keys.feed(partition), "text")
    feed = feed_of(client, keys)
    await feed.join()
    assert await feed.read(10) == []
    assert feed.reads("a")  # Blocked streams are still tried again by who holds their partition.


@pytest.mark.parametrize("kind", ["list", "stream"])
async def test_a_number_of_partitions_of_another_type_is_named_and_for_an_operator_to_mend(
    client: Redis, redis: Redis, keys: Keys, kind: str
) -> None:
    if kind == "list":
        await redis.lpush(keys.feed_partitions, "8")
    else:
        await redis.xadd(keys.feed_partitions, {"a": "b"})
    feed = feed_of(client, keys)
    with pytest.raises(ResponseError, match=f"Key {keys.feed_partitions} holds no number") as caught:
        await feed.join()
    assert classify(caught.value) is Trouble.MISCONFIGURED
    await redis.delete(keys.feed_partitions)
    await feed.join()


async def test_hints_that_say_nothing_are_logged_once_a_minute(
    client: Redis, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0, 1001.0, 1059.0, 1061.0, 1062.0]
    monkeypatch.setattr(feed_module, "monotonic", lambda: clock[0])
    feed = feed_of(client, keys)
    await feed.join()
    with capture_logs() as lines:
        while clock:
            for _ in range(5):
                await redis.xadd(keys.feed(0), {"nonsense": b"\xff"})
            await read_all(client, keys, feed)
            clock.pop(0)
    assert [line["so_far"] for line in lines] == [1, 16]
    assert feed.malformed == 25
