"""Partitions that a replica holds: it reads those, and takes over what dead replicas had in hand there."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from tests.feeds import GROUP, add_hints, feed_of, pending_of, read_all, stream_ids, upkeep_of
from tests.rights import ADMINISTRATOR, client_as
from worker import Keys
from worker.feed import Feed
from worker.feed_upkeep import FeedUpkeep
from worker.hint import Hint
from worker.leases import Leases

SOON = timedelta(milliseconds=20)


@pytest.fixture
def client(either_client: Redis) -> Redis:
    return either_client


@pytest.fixture
def one(keys_prefix: str) -> Keys:
    """A feed of one partition, so that hints come in order."""
    return Keys(keys_prefix, partitions=1)


async def reader(client: Redis, keys: Keys, consumer: str, *streams: str, alive: bool = False) -> Feed:
    """A consumer that has joined and read hints of these streams, and whether it has a live replica."""
    feed = feed_of(client, keys, consumer=consumer)
    if alive:
        await Leases(client, keys, projection=GROUP, consumer=consumer).tick()
    await feed.join()
    await add_hints(client, keys, *streams)
    await read_all(client, keys, feed)
    return feed


async def inherit_all(upkeep: FeedUpkeep) -> list[Hint]:
    """Everything that there is to take over."""
    inherited: list[Hint] = []
    while page := await upkeep.inherit():
        inherited += page
    return inherited


async def consumers(client: Redis, keys: Keys, partition: int = 0) -> set[str]:
    return {
        info["name"].decode()
        for info in await client_as(client, ADMINISTRATOR).xinfo_consumers(keys.feed(partition), GROUP)
    }


# Reading.


async def test_only_partitions_that_are_held_are_read(client: Redis, keys: Keys) -> None:
    feed = await reader(client, keys, "consumer")
    streams = [f"s{number}" for number in range(40)]
    await add_hints(client, keys, *streams)
    feed.hold({0, 3})
    hints = await feed.read(100)
    assert {hint.partition for hint in hints} == {0, 3}
    feed.hold({1, 2, 4, 5, 6, 7})
    hints += await feed.read(100)
    assert sorted(stream_ids(hints)) == sorted(streams)


async def test_who_holds_no_partition_waits_until_it_does(client: Redis, keys: Keys) -> None:
    feed = await reader(client, keys, "consumer")
    await add_hints(client, keys, "a")
    feed.hold(())
    started = asyncio.get_running_loop().time()
    assert await feed.read(10, SOON) == []
    assert asyncio.get_running_loop().time() - started >= SOON.total_seconds() * 0.9
    waiting = asyncio.create_task(feed.read(10, timedelta(seconds=9)))
    await asyncio.sleep(0)
    feed.hold({keys.partition("a")})
    async with asyncio.timeout(5):
        assert await waiting == []
        assert stream_ids(await feed.read(10)) == ["a"]


async def test_hints_in_hand_are_acknowledged_whoever_holds_their_partition(
    client: Redis, keys: Keys
) -> None:
    feed = await reader(client, keys, "consumer")
    await add_hints(client, keys, "a")
    hints = await feed.read(10)
    feed.hold(())
    await feed.acknowledge(hints)
    assert await pending_of(client, keys) == 0


async def test_own_pending_hints_are_read_again_whoever_holds_their_partition(
    client: Redis, keys: Keys
) -> None:
    await reader(client, keys, "consumer", "a", "b")
    again = feed_of(client, keys, consumer="consumer")
    again.hold(())
    await again.join()
    assert sorted(stream_ids(await again.read(10))) == ["a", "b"]


# Taking over from the dead.


async def test_what_a_dead_replica_had_in_hand_is_taken_over_however_young(client: Redis, keys: Keys) -> None:
    await reader(client, keys, "dead", "a", "b", "c")
    feed = await reader(client, keys, "heir")
    hints = await inherit_all(upkeep_of(client, keys, feed))
    assert sorted(stream_ids(hints)) == ["a", "b", "c"]
    await feed.acknowledge(hints)
    assert await pending_of(client, keys) == 0


async def test_what_a_live_replica_has_in_hand_is_left_to_it(client: Redis, keys: Keys) -> None:
    await reader(client, keys, "alive", "a", "b", alive=True)
    upkeep = upkeep_of(client, keys, await reader(client, keys, "heir"))
    assert await inherit_all(upkeep) == []
    assert await upkeep.claim_abandoned(timedelta(minutes=1)) == []
    assert len(await upkeep.claim_abandoned(timedelta(0))) == 2
    assert await consumers(client, keys) == {"alive", "heir"}


async def test_a_replica_that_comes_while_others_look_around_does_not_count_as_dead(
    client: Redis, one: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    upkeep = upkeep_of(client, one, await reader(client, one, "heir"))
    look_around = FeedUpkeep._consumers

    async def then_another_comes(upkeep: FeedUpkeep) -> object:
        await reader(client, one, "newcomer", "a", alive=True)
        return await look_around(upkeep)

    monkeypatch.setattr(FeedUpkeep, "_consumers", then_another_comes)
    assert await inherit_all(upkeep) == []


async def test_partitions_that_are_not_held_are_left_to_their_holders(client: Redis, keys: Keys) -> None:
    streams = [f"s{number}" for number in range(40)]
    await reader(client, keys, "dead", *streams)
    feed = await reader(client, keys, "heir")
    upkeep = upkeep_of(client, keys, feed)
    for held in ({1}, {2, 5}):
        feed.hold(held)
        assert {hint.partition for hint in await inherit_all(upkeep)} == held
    assert "dead" in await consumers(client, keys, 0)
    assert "dead" not in await consumers(client, keys, 1)
    feed.hold({3})
    assert {hint.partition for hint in await upkeep.claim_abandoned(timedelta(0))} == {3}


async def test_however_much_the_dead_had_in_hand_it_comes_page_by_page(client: Redis, one: Keys) -> None:
    for name in ("dead", "also dead"):
        await reader(client, one, name, *(f"{name} {number}" for number in range(1_200)))
    upkeep = upkeep_of(client, one, await reader(client, one, "heir"))
    sizes, found = [], set[str]()
    while page := await upkeep.inherit():
        sizes.append(len(page))
        found.update(stream_ids(page))
    assert max(sizes) <= 500
    assert len(found) == sum(sizes) == 2_400
    assert await consumers(client, one) == {"heir"}


async def test_hints_of_the_dead_that_were_trimmed_hold_up_nothing(
    client: Redis, redis: Redis, one: Keys
) -> None:
    losses: list[str] = []
    await reader(client, one, "dead", *(f"s{number}" for number in range(600)))
    await redis.xtrim(one.feed(0), maxlen=50, approximate=False)
    feed = await reader(client, one, "heir")
    feed.hints_lost = lambda: losses.append("lost")
    hints = await inherit_all(upkeep_of(client, one, feed))
    assert stream_ids(hints) == [f"s{number}" for number in range(550, 600)]
    await feed.acknowledge(hints)
    assert await read_all(client, one, feed) == []
    assert await pending_of(client, one) == 0
    assert losses
    assert await consumers(client, one) == {"heir"}


async def test_two_heirs_never_take_over_the_same_hint(client: Redis, one: Keys) -> None:
    await reader(client, one, "dead", *(f"s{number}" for number in range(2_000)))
    heirs = [upkeep_of(client, one, await reader(client, one, name, alive=True)) for name in ("one", "two")]
    shares = await asyncio.gather(*map(inherit_all, heirs))
    assert sorted(stream_ids([*shares[0], *shares[1]])) == sorted(f"s{number}" for number in range(2_000))


# Removing the dead.


async def test_the_dead_are_removed_when_nothing_is_pending_for_them(client: Redis, keys: Keys) -> None:
    feed = await reader(client, keys, "dead", "a")
    await feed.join()
    await feed.acknowledge(await feed.read(10))
    await reader(client, keys, "alive", alive=True)
    await inherit_all(upkeep_of(client, keys, await reader(client, keys, "heir")))
    for partition in range(keys.partitions):
        assert await consumers(client, keys, partition) == {"alive", "heir"}


async def test_a_consumer_for_which_something_is_pending_is_never_removed(client: Redis, one: Keys) -> None:
    await reader(client, one, "dead", "a")
    feed = await reader(client, one, "other")
    assert await feed.remove("dead", 0) is False
    assert await pending_of(client, one) == 1
    assert await feed.remove("nobody", 0) is True


async def test_a_zombie_that_reads_while_it_is_being_removed_loses_no_hint(client: Redis, one: Keys) -> None:
    zombie = await reader(client, one, "zombie")
    heir = await reader(client, one, "heir")
    upkeep = upkeep_of(client, one, heir)
    streams = [f"s{number}" for number in range(300)]
    await add_hints(client, one, *streams)
    inherited: list[str] = []
    reading = True

    async def read_on() -> None:
        nonlocal reading
        read = 0
        while read < len(streams):
            read += len(await zombie.read(1))
        reading = False

    async def bury() -> None:
        while reading:
            await heir.remove("zombie", 0)
            inherited.extend(stream_ids(await upkeep.inherit()))

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(read_on())
        tasks.create_task(bury())
    inherited += stream_ids(await inherit_all(upkeep))
    assert sorted(inherited) == sorted(streams)
    assert await pending_of(client, one) == len(streams)


# Noticing that hints were lost.


async def losses_of(client: Redis, keys: Keys) -> tuple[Feed, list[str]]:
    """A feed whose group is made already, and what it tells of losses from now on."""
    losses: list[str] = []
    feed = await reader(client, keys, "consumer")
    feed.hints_lost = lambda: losses.append("lost")
    return feed, losses


async def test_a_group_that_had_to_be_made_anew_may_have_lost_hints(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    feed, losses = await losses_of(client, keys)
    await feed.join()
    assert losses == []
    await redis.xgroup_destroy(keys.feed(3), GROUP)
    await feed.join()
    assert losses == ["lost"]


async def test_a_group_that_a_new_replica_makes_has_lost_nothing(client: Redis, keys: Keys) -> None:
    losses: list[str] = []
    feed = feed_of(client, keys)
    feed.hints_lost = lambda: losses.append("lost")
    await feed.join()
    assert losses == []  # The first sweep is under way anyway.


async def test_hints_that_the_cap_drops_before_they_are_read_are_missed_once(
    client: Redis, redis: Redis, one: Keys
) -> None:
    feed, losses = await losses_of(client, one)
    upkeep = upkeep_of(client, one, feed)
    await add_hints(client, one, *(f"s{number}" for number in range(10)))
    await feed.acknowledge(await feed.read(4))
    await upkeep.trim()
    assert losses == []
    await redis.xtrim(one.feed(0), maxlen=3, approximate=False)
    counted = "entries-added" in await redis.xinfo_stream(one.feed(0))  # From Redis 7 on.
    for _ in range(3):
        await upkeep.trim()
    assert losses == ["lost"] * counted
    await feed.acknowledge(await feed.read(10))
    await add_hints(client, one, "later")
    await upkeep.trim()
    assert losses == ["lost"] * counted


async def test_a_pending_hint_that_was_trimmed_is_missed(client: Redis, redis: Redis, one: Keys) -> None:
    feed, losses = await losses_of(client, one)
    await add_hints(client, one, "a", "b")
    await feed.read(10)
    await redis.xtrim(one.feed(0), maxlen=1, approximate=False)
    await feed.join()
    assert stream_ids(await feed.read(10)) == ["b"]
    assert losses == ["lost"]
