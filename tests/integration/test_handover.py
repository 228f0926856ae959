"""Partitions that pass from one live replica to another, with what was in hand of them."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from tests.feeds import GROUP, add_hints, feed_of, pending_of, read_all, stream_ids
from worker import Keys
from worker.feed import Feed
from worker.handover import Handover
from worker.hint import Hint
from worker.leases import Leases, Tenure
from worker.pending import Pending

STREAMS = [f"s{number}" for number in range(40)]


@pytest.fixture
def client(either_client: Redis) -> Redis:
    return either_client


class Replica:
    """One that reads into its queue, and projects nothing."""

    def __init__(self, client: Redis, keys: Keys, name: str) -> None:
        self.feed: Feed = feed_of(client, keys, consumer=name)
        self.pending = Pending(batch_streams=1000, linger=timedelta(0), max_hints=10_000)
        leases = Leases(client, keys, projection=GROUP, consumer=name)
        self.handover = Handover(client, self.feed, leases, self.pending)

    async def join(self) -> None:
        await self.feed.join()
        await self.handover.tick()
        assert await self.feed.read(1000) == []  # Own pending hints.

    async def read(self) -> list[Hint]:
        """What there is to read in the partitions held, and what was given."""
        hints: list[Hint] = []
        while page := await self.feed.read(1000, timedelta(milliseconds=20)):
            hints += page
        self.pending.add_hints(hints, flush=True)
        return hints

    async def in_hand(self) -> set[str]:
        """The streams in the queue."""
        works = await self.pending.take() if len(self.pending) else []
        for work in works:
            self.pending.finish(work, again=True)
        return {work.stream_id for work in works}


@pytest.fixture
async def busy(client: Redis, keys: Keys) -> Replica:
    """A replica that is alone and has a hint of each stream in hand."""
    replica = Replica(client, keys, "busy")
    await replica.join()
    await add_hints(client, keys, *STREAMS)
    hints = await read_all(client, keys, replica.feed)
    replica.pending.add_hints(hints, flush=True)
    return replica


async def test_who_joins_is_given_what_the_other_has_in_hand_of_its_partitions(
    client: Redis, keys: Keys, busy: Replica
) -> None:
    joins = Replica(client, keys, "joins")
    await joins.join()
    await busy.handover.tick()
    await joins.handover.tick()
    hints = await joins.read()
    assert {hint.partition for hint in hints} == joins.handover.tenure.partitions
    assert len(joins.handover.tenure.partitions) == 4
    assert await joins.in_hand() == set(stream_ids(hints))
    assert await busy.in_hand() == set(STREAMS) - set(stream_ids(hints))
    assert all(busy.handover.reads(stream_id) for stream_id in await busy.in_hand())
    assert await pending_of(client, keys) == len(STREAMS)
    await joins.feed.acknowledge(hints)
    assert await pending_of(client, keys) == len(STREAMS) - len(hints)


async def test_streams_in_flight_are_finished_by_who_has_them(
    client: Redis, keys: Keys, busy: Replica
) -> None:
    works = await busy.pending.take()
    joins = Replica(client, keys, "joins")
    await joins.join()
    await busy.handover.tick()
    await joins.handover.tick()
    assert len(joins.handover.tenure.partitions) == 4
    assert await joins.read() == []
    for work in works:
        busy.pending.finish(work)


async def test_who_retires_gives_everything_to_the_others(client: Redis, keys: Keys, busy: Replica) -> None:
    stays = Replica(client, keys, "stays")
    await stays.join()
    await busy.handover.retire()
    assert await busy.in_hand() == set()
    await stays.handover.tick()
    await stays.read()
    assert await stays.in_hand() == set(STREAMS)


async def test_who_retires_alone_keeps_what_is_in_hand(busy: Replica) -> None:
    await busy.handover.retire()
    assert busy.feed.held == []
    assert await busy.in_hand() == set(STREAMS)


async def test_streams_that_a_sweep_found_go_as_hints(client: Redis, keys: Keys) -> None:
    sweeps, joins = Replica(client, keys, "sweeps"), Replica(client, keys, "joins")
    await sweeps.join()
    for stream_id in STREAMS:
        sweeps.pending.add_swept(stream_id)
    await joins.join()
    await sweeps.handover.tick()
    await joins.handover.tick()
    await joins.read()
    passed_on = await joins.in_hand()
    assert passed_on == {stream_id for stream_id in STREAMS if joins.handover.reads(stream_id)}
    assert await sweeps.in_hand() == set(STREAMS) - passed_on


async def test_hints_are_not_dropped_when_redis_fails_in_between(
    busy: Replica, client: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Replica(client, keys, "joins").join()

    async def fail(leases: Leases) -> Tenure:
        raise ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(Leases, "release", fail)
        with pytest.raises(ConnectionError):
            await busy.handover.tick()
    assert await busy.in_hand() == set(STREAMS)
    await busy.handover.tick()
    assert len(await busy.in_hand()) < len(STREAMS)
    assert len(busy.feed.held) == 4


async def test_a_skim_that_stays_keeps_its_streams_whichever_partition_they_should_be_in(
    client: Redis, keys: Keys, busy: Replica
) -> None:
    await Replica(client, keys, "joins").join()
    skimmed = [Hint(p, b"9-9", s, "", skimmed=True) for p in range(8) for s in STREAMS]
    busy.pending.add_hints(skimmed, flush=True)
    await busy.handover.tick()
    kept = {hint for work in await busy.pending.take() for hint in work.hints if hint.skimmed}
    assert {hint for hint in skimmed if hint.partition in busy.feed.held} <= kept
    assert len(busy.feed.held) == 4


async def test_replicas_tell_when_others_come_and_go(client: Redis, keys: Keys, busy: Replica) -> None:
    changed = busy.handover.replicas_changed
    changed.clear()
    await busy.handover.tick()
    assert not changed.is_set()
    joins = Replica(client, keys, "joins")
    await joins.join()
    await busy.handover.tick()
    assert changed.is_set()
    changed.clear()
    await joins.handover.leave()
    await busy.handover.tick()
    assert changed.is_set()
    assert busy.handover.tenure.partitions == set(range(8))


async def test_who_comes_back_under_its_name_lets_go_what_it_held_before(client: Redis, keys: Keys) -> None:
    await Replica(client, keys, "dies").join()
    joins, comes_back = Replica(client, keys, "joins"), Replica(client, keys, "dies")
    for replica in (joins, comes_back):
        await replica.join()
    for replica in (joins, comes_back):
        await replica.handover.tick()
    assert everything_is_read_once(joins, comes_back)


async def test_partitions_that_a_replica_got_in_a_reply_that_was_lost_do_not_stay_unread(
    client: Redis, redis: Redis, keys: Keys
) -> None:
    one, other = Replica(client, keys, "one"), Replica(client, keys, "other")
    for replica in (one, other, one, other):
        await replica.handover.tick()
    assert everything_is_read_once(one, other)
    first, second = sorted((one, other), key=lambda replica: replica.feed.held)
    await redis.zrem(keys.live_replicas(GROUP), second.feed.consumer)
    await Leases(client, keys, projection=GROUP, consumer=first.feed.consumer).tick()
    for replica in (second, first, second):
        await replica.handover.tick()
    assert everything_is_read_once(one, other)


async def test_who_is_given_hints_while_it_must_let_partitions_go_reads_them(
    client: Redis, redis: Redis, keys: Keys, busy: Replica
) -> None:
    await Replica(client, keys, "joins").join()
    await redis.sadd(keys.given(GROUP), busy.feed.consumer)
    await busy.handover.tick()
    kept = await busy.in_hand()
    assert set(stream_ids(await busy.read())) == kept


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_became_of_the_leases_every_partition_is_soon_read_again(
    client: Redis, redis: Redis, keys: Keys, seed: int
) -> None:
    rng = random.Random(seed)
    names = (keys.leases(GROUP), keys.live_replicas(GROUP))
    replicas = {name: Replica(client, keys, name) for name in "abcd"}
    snapshots: list[list[bytes | None]] = []
    for _ in range(60):
        name = rng.choice("abcd")
        replica = replicas[name]
        match rng.choice(["tick", "tick", "tick", "reply lost", "dies", "seems dead", "snapshot", "older"]):
            case "tick":
                await replica.handover.tick()
            case "reply lost":
                leases = Leases(client, keys, projection=GROUP, consumer=name)
                await rng.choice([leases.tick, leases.release])()
            case "dies":
                replicas[name] = Replica(client, keys, name)
            case "seems dead":
                await redis.zrem(keys.live_replicas(GROUP), name)
            case "snapshot":
                snapshots.append([await redis.dump(key) for key in names])
            case "older" if snapshots:
                await redis.delete(*names)
                for key, dumped in zip(names, rng.choice(snapshots), strict=True):
                    if dumped is not None:
                        await redis.restore(key, 0, dumped)
    for _ in range(3):
        for replica in rng.sample(list(replicas.values()), 4):
            await replica.handover.tick()
    assert everything_is_read_once(*replicas.values())
    assert {len(replica.feed.held) for replica in replicas.values()} == {2}


def everything_is_read_once(*replicas: Replica) -> bool:
    return sorted(partition for replica in replicas for partition in replica.feed.held) == list(range(8))
