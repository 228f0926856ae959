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

    async def shares(self) -> list[int]:
        return sorted(Counter((await self.held()).values()).values(), reverse=True)


@pytest.fixture
def replicas(client: Redis, keys: Keys) -> Replicas:
    return Replicas(client, keys)


def assert_fair(held: dict[int, str], sharing: set[str], partitions: int) -> None:
    """Every partition has a holder that wants some, and numbers differ by one at most."""
    if not sharing:
        assert held == {}
        return
    assert sorted(held) == list(range(partitions))
    sizes = Counter(held.values())
    assert set(sizes) <= sharing
    assert max(sizes.values()) - min(sizes[name] for name in sharing) <= 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("partitions", [1, 3, 8, 17])
async def test_shares_are_fair_whoever_comes_goes_or_dies(
    client: Redis, keys_prefix: str, partitions: int, seed: int
) -> None:
    replicas = Replicas(client, Keys(keys_prefix, partitions=partitions))
    rng = random.Random(seed)
    sharing: set[str] = set()
    retired: set[str] = set()
    for _ in range(60):
        name = f"replica-{rng.randrange(10)}"
        before = await replicas.held()
        match rng.choice(["tick", "tick", "tick", "retire", "leave", "die"]):
            case "tick" if name not in retired:
                tenure = await replicas.tick(name)
                sharing.add(name)
            case "retire" if name in sharing:
                tenure = await replicas.leases[name].retire()
                sharing.remove(name)
                retired.add(name)
            case "leave" if name in sharing | retired:
                await replicas.leases.pop(name).leave()
                sharing.discard(name)
                retired.discard(name)
                assert_fair(await replicas.held(), sharing, partitions)
                continue
            case "die" if name in sharing | retired and len(sharing) > 1:
                await replicas.expire(name)
                replicas.leases.pop(name)
                sharing.discard(name)
                retired.discard(name)
                name = rng.choice(sorted(sharing))
                tenure = await replicas.tick(name)
            case _:
                continue
        held = await replicas.held()
        assert_fair(held, sharing, partitions)
        assert tenure.partitions == {p for p, holder in held.items() if holder == name}
        assert tenure.live == frozenset(sharing | retired)
        stayed = [p for p, holder in before.items() if holder in sharing and held[p] == holder]
        if before and set(before.values()) <= sharing:  # A newcomer takes its own share and no more.
            assert len(stayed) >= partitions - len(tenure.partitions)


async def test_a_replica_that_joins_has_its_share_at_once(replicas: Replicas) -> None:
    assert (await replicas.tick("a")).partitions == set(range(8))
    joined = await replicas.tick("b")
    assert len(joined.partitions) == 4
    assert joined.partitions | (await replicas.tick("a")).partitions == set(range(8))


async def test_nothing_moves_while_the_same_replicas_are_alive(replicas: Replicas) -> None:
    for name in "cab":
        await replicas.tick(name)
    before = await replicas.held()
    for name in "abcabc":
        await replicas.tick(name)
    assert await replicas.held() == before
    assert await replicas.shares() == [3, 3, 2]


async def test_more_replicas_than_partitions_stand_by(replicas: Replicas) -> None:
    for number in range(10):
        await replicas.tick(f"r{number}")
    assert await replicas.shares() == [1] * 8
    idle = [name for name in replicas.leases if not (await replicas.tick(name)).partitions]
    assert len(idle) == 2


async def test_a_replica_that_leaves_hands_its_partitions_over_in_one_step(replicas: Replicas) -> None:
    for name in "abc":
        await replicas.tick(name)
    await replicas.leases["a"].leave()
    assert await replicas.shares() == [4, 4]
    assert (await replicas.tick("b")).live == frozenset("bc")


async def test_the_last_replica_leaves_nothing_behind(client: Redis, keys: Keys, replicas: Replicas) -> None:
    await replicas.tick("a")
    await replicas.leases["a"].leave()
    assert await client.exists(keys.leases(PROJECTION), keys.live_replicas(PROJECTION)) == 0


async def test_a_replica_that_retires_is_alive_without_partitions(replicas: Replicas) -> None:
    for name in "ab":
        await replicas.tick(name)
    for _ in range(2):
        assert (await replicas.leases["a"].retire()).partitions == set()
        assert (await replicas.tick("b")) == Tenure(frozenset(range(8)), frozenset("ab"))
    assert (await replicas.tick("a")).partitions == set()


async def test_a_lease_lives_for_a_few_seconds_by_the_servers_clock(
    client: Redis, keys: Keys, replicas: Replicas
) -> None:
    await replicas.tick("a")
    seconds, microseconds = await client.time()
    expiry = await client.zscore(keys.live_replicas(PROJECTION), "a")
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
    back = await replicas.tick("a")
    assert len(back.partitions) == 4
    assert back.live == frozenset("ab")


async def test_a_replica_of_before_the_servers_clock_was_set_back_counts_as_dead_until_it_ticks(
    client: Redis, keys: Keys, replicas: Replicas
) -> None:
    for name in "ab":
        await replicas.tick(name)
    seconds, _ = await client.time()
    future = dict.fromkeys(("a", "b", "dead"), (seconds + 3600) * 1000)
    await client.zadd(keys.live_replicas(PROJECTION), future)
    assert await replicas.tick("a") == Tenure(frozenset(range(8)), frozenset("a"))
    await replicas.tick("b")
    assert await replicas.shares() == [4, 4]


async def test_a_redis_that_forgets_everything_is_told_again(
    client: Redis, keys: Keys, replicas: Replicas
) -> None:
    for name in "abc":
        await replicas.tick(name)
    await client.delete(keys.leases(PROJECTION), keys.live_replicas(PROJECTION))
    await client.script_flush()
    for name in "cba":
        await replicas.tick(name)
    assert await replicas.shares() == [3, 3, 2]


async def test_leases_of_partitions_that_there_are_not_do_no_harm(
    client: Redis, keys: Keys, replicas: Replicas
) -> None:
    await client.hset(keys.leases(PROJECTION), mapping={"99": "a", "nonsense": "a", "3": "\xff"})
    assert (await replicas.tick("a")).partitions == set(range(8))


async def test_projections_do_not_share_their_leases(client: Redis, keys: Keys, replicas: Replicas) -> None:
    other = Replicas(client, keys, "other")
    assert (await replicas.tick("a")).partitions == set(range(8))
    assert await other.tick("b") == Tenure(frozenset(range(8)), frozenset("b"))
    assert await replicas.tick("a") == Tenure(frozenset(range(8)), frozenset("a"))


def test_nobody_counts_as_dead_where_nobody_keeps_count() -> None:
    assert Tenure().dead_among({"a"}) == set()
    assert Tenure(live=frozenset("ab")).dead_among({"b", "c"}) == {"c"}
