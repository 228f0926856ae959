"""Leases: after every tick each partition has a live holder, and all of them a fair share."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from redis.asyncio import Redis

from worker import Keys
from worker.leases import LEASE_LIVES, Leases, Tenure
from worker.redis_client import pairs

PROJECTION = "strategies"
LIVES_MS = LEASE_LIVES.total_seconds() * 1000


@pytest.fixture
def client(either_client: Redis) -> Redis:
    return either_client


class Replicas:
    """Replicas by name, each with its leases; they tick when the test says so."""

    def __init__(self, client: Redis, keys: Keys, projection: str = PROJECTION) -> None:
        self.client = client
        self.keys = keys
        self.projection = projection
        self.leases: dict[str, Leases] = {}

    async def tick(self, name: str) -> Tenure:
        """What a replica is told; a new one joins by that."""
        make = Leases(self.client, self.keys, projection=self.projection, consumer=name)
        return await self.leases.setdefault(name, make).tick()

    async def held(self) -> dict[int, str]:
        """Who holds each partition."""
        stored = await self.client.execute_command("HGETALL", self.keys.leases(self.projection))
        return {int(partition): name.decode() for partition, name in pairs(stored)}

    async def expire(self, name: str) -> None:
        """Let it be dead, as if it had not ticked for long."""
        await self.client.zadd(self.keys.live_replicas(self.projection), {name: 1}, xx=True)

    async def settle(self, rng: random.Random) -> dict[str, Tenure]:
        """Let every replica tick, let go what it has too much of, and look again; what they are told then."""
        for _ in range(2):
            names = rng.sample(sorted(self.leases), len(self.leases))
            tenures = {name: await self.leases[name].release() for name in names}
        return {name: await self.tick(name) for name in tenures}

    async def shares(self) -> list[int]:
        return sorted(Counter((await self.held()).values()).values(), reverse=True)


@pytest.fixture
def replicas(client: Redis, keys: Keys) -> Replicas:
    return Replicas(client, keys)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("partitions", [1, 3, 8, 17])
async def test_shares_become_fair_whoever_comes_goes_or_dies(
    client: Redis, keys_prefix: str, partitions: int, seed: int
) -> None:
    replicas = Replicas(client, Keys(keys_prefix, partitions=partitions))
    rng = random.Random(seed)
    sharing, retired = set[str](), set[str]()
    for _ in range(40):
        for name in rng.sample([f"replica-{number}" for number in range(10)], rng.randint(1, 3)):
            if name not in sharing | retired:
                await replicas.tick(name)
                sharing.add(name)
            elif rng.random() < 0.3 and name in sharing:
                await replicas.leases[name].retire()
                sharing.remove(name)
                retired.add(name)
            elif rng.random() < 0.5:
                await replicas.leases.pop(name).leave()
                sharing.discard(name)
                retired.discard(name)
            else:
                await replicas.expire(name)
                del replicas.leases[name]
                sharing.discard(name)
                retired.discard(name)
        before = await replicas.held()
        tenures = await replicas.settle(rng)
        held = await replicas.held()
        sizes = Counter(dict.fromkeys(sharing, 0)) + Counter()
        sizes.update({name: len(tenures[name].partitions) for name in sharing})
        assert sorted(held) == (list(range(partitions)) if sharing else [])
        assert sum(sizes.values()) == len(held)
        assert not sharing or max(sizes.values()) - min(sizes.values()) <= 1
        for name, tenure in tenures.items():
            assert tenure.partitions == {p for p, holder in held.items() if holder == name}
            assert tenure.live == frozenset(sharing | retired)
            assert tenure.surplus == 0
        too_many = sum(max(0, list(before.values()).count(name) - sizes[name]) for name in sharing)
        moved = [p for p, holder in before.items() if holder in sharing and held[p] != holder]
        assert len(moved) == too_many  # Nobody loses what is no more than its share.


async def test_a_replica_that_joins_has_its_share_when_the_others_let_go(replicas: Replicas) -> None:
    assert (await replicas.tick("a")).partitions == set(range(8))
    assert (await replicas.tick("b")).partitions == set()
    kept = (await replicas.tick("a")).partitions
    assert len(kept) == 4
    assert (await replicas.tick("b")).partitions == set()
    assert (await replicas.leases["a"].release()).partitions == kept
    assert (await replicas.tick("b")).partitions == set(range(8)) - kept


async def test_what_a_replica_is_to_let_go_stays_its_own_until_it_does(replicas: Replicas) -> None:
    await replicas.tick("a")
    await replicas.tick("b")
    for _ in range(2):
        tenure = await replicas.tick("a")
        assert (len(tenure.partitions), tenure.surplus) == (4, 4)
    assert await replicas.shares() == [8]
    await replicas.leases["b"].leave()
    assert (await replicas.tick("a")).partitions == set(range(8))


async def test_nothing_moves_while_the_same_replicas_are_alive(replicas: Replicas) -> None:
    for name in "cab":
        await replicas.tick(name)
    await replicas.settle(random.Random(0))
    before = await replicas.held()
    for name in "abcabc":
        await replicas.tick(name)
    assert await replicas.held() == before
    assert await replicas.shares() == [3, 3, 2]


async def test_more_replicas_than_partitions_stand_by(replicas: Replicas) -> None:
    for number in range(10):
        await replicas.tick(f"r{number}")
    await replicas.settle(random.Random(0))
    assert await replicas.shares() == [1] * 8
    idle = [name for name in replicas.leases if not (await replicas.tick(name)).partitions]
    assert len(idle) == 2


async def test_a_replica_that_leaves_hands_its_partitions_over_in_one_step(replicas: Replicas) -> None:
    for name in "abc":
        await replicas.tick(name)
    await replicas.settle(random.Random(0))
    await replicas.leases["a"].leave()
    assert await replicas.shares() == [4, 4]
    assert (await replicas.tick("b")).live == frozenset("bc")


async def test_the_last_replica_leaves_nothing_behind(redis: Redis, keys: Keys, replicas: Replicas) -> None:
    await replicas.tick("a")
    await replicas.leases["a"].leave()
    assert (
        await redis.exists(keys.leases(PROJECTION), keys.live_replicas(PROJECTION), keys.given(PROJECTION))
        == 0
    )


async def test_a_replica_that_retires_is_alive_without_partitions(replicas: Replicas) -> None:
    for name in "ab":
        await replicas.tick(name)
    for _ in range(2):
        assert (await replicas.leases["a"].retire()).partitions == set()
        assert (await replicas.tick("b")) == Tenure(frozenset(range(8)), frozenset("ab"))
    assert (await replicas.tick("a")).partitions == set()


async def test_a_lease_lives_for_a_few_seconds_by_the_servers_clock(
    redis: Redis, keys: Keys, replicas: Replicas
) -> None:
    await replicas.tick("a")
    seconds, microseconds = await redis.time()
    expiry = await redis.zscore(keys.live_replicas(PROJECTION), "a")
    assert expiry is not None
    left = expiry - (seconds * 1000 + microseconds / 1000)
    assert LIVES_MS - 1000 < left <= LIVES_MS


async def test_a_replica_that_stood_still_loses_its_partitions_and_gets_a_share_again(
    replicas: Replicas,
) -> None:
    for name in "ab":
        await replicas.tick(name)
    await replicas.expire("a")
    assert await replicas.tick("b") == Tenure(frozenset(range(8)), frozenset("b"))
    assert await replicas.tick("a") == Tenure(frozenset(), frozenset("ab"))
    await replicas.leases["b"].release()
    assert len((await replicas.tick("a")).partitions) == 4


async def test_a_replica_of_before_the_servers_clock_was_set_back_counts_as_dead_until_it_ticks(
    redis: Redis, keys: Keys, replicas: Replicas
) -> None:
    for name in "ab":
        await replicas.tick(name)
    seconds, _ = await redis.time()
    future = dict.fromkeys(("a", "b", "dead"), (seconds + 3600) * 1000)
    await redis.zadd(keys.live_replicas(PROJECTION), future)
    assert await replicas.tick("a") == Tenure(frozenset(range(8)), frozenset("a"))
    await replicas.tick("b")
    await replicas.settle(random.Random(0))
    assert await replicas.shares() == [4, 4]


async def test_a_redis_that_forgets_everything_is_told_again(
    redis: Redis, keys: Keys, replicas: Replicas
) -> None:
    for name in "abc":
        await replicas.tick(name)
    await redis.delete(keys.leases(PROJECTION), keys.live_replicas(PROJECTION))
    await redis.script_flush()
    await replicas.settle(random.Random(0))
    assert await replicas.shares() == [3, 3, 2]


async def test_leases_of_partitions_that_there_are_not_do_no_harm(
    redis: Redis, keys: Keys, replicas: Replicas
) -> None:
    await redis.hset(keys.leases(PROJECTION), mapping={"99": "a", "nonsense": "a", "3": "\xff"})
    assert (await replicas.tick("a")).partitions == set(range(8))


async def test_projections_do_not_share_their_leases(client: Redis, keys: Keys, replicas: Replicas) -> None:
    other = Replicas(client, keys, "other")
    assert (await replicas.tick("a")).partitions == set(range(8))
    assert await other.tick("b") == Tenure(frozenset(range(8)), frozenset("b"))
    assert await replicas.tick("a") == Tenure(frozenset(range(8)), frozenset("a"))


async def test_who_is_dead_is_asked_without_changing_anything(
    redis: Redis, keys: Keys, replicas: Replicas
) -> None:
    for name in "ab":
        await replicas.tick(name)
    await redis.sadd(keys.given(PROJECTION), "a")
    await replicas.leases["b"].retire()
    for name in "ab":
        assert await replicas.leases[name].dead_among({"a", "b", "c"}) == {"c"}
    assert (await replicas.tick("b")).partitions == set()
    assert (await replicas.tick("a")).given
    assert not (await replicas.tick("a")).given


async def test_no_replica_counts_itself_among_the_dead(replicas: Replicas) -> None:
    await replicas.tick("a")
    await replicas.expire("a")
    assert await replicas.leases["a"].dead_among({"a", "b"}) == {"b"}
