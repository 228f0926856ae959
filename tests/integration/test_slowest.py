"""Which streams are furthest behind: who is found, how far behind they are said to be, and why."""

from __future__ import annotations

import time
from typing import NoReturn

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.feeds import add_hints, feed_of
from tests.projecting import Replica
from tests.tallies import tallies
from tests.writes import create_tallies
from worker import Keys, Projection
from worker.diverged import DivergedStreams
from worker.lag import Waiting
from worker.log import Log
from worker.slowest import Slowest, SlowStream
from worker.standing import Standing

BEHIND, BLOCKED, DIVERGED, GONE = Standing.BEHIND, Standing.BLOCKED, Standing.DIVERGED, Standing.LOG_GONE


class World:
    """A replica that projects when it is told to, and who looks for slow streams."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.slowest = Slowest(replica.redis, replica.engine, replica.keys, replica.projection, replica.logs)
        self.diverged = DivergedStreams(replica.redis, replica.keys, replica.projection.name)

    async def append(self, stream_id: str, *, ago: int, types: str = "add") -> None:
        """Events that were appended so many seconds ago, a word for the type of each."""
        ms = (int(time.time()) - ago) * 1000
        for number, event_type in enumerate(types.split()):
            await self.replica.append(stream_id, event_type, {"n": 1}, at=f"{ms + number}-0")

    async def projected(self, stream_id: str, *, ago: int) -> None:
        await self.append(stream_id, ago=ago)
        await self.replica.project(stream_id)

    async def lost(self, stream_id: str) -> None:
        """A log whose tail Redis has lost: an older one has come back."""
        await self.replica.redis.delete(self.replica.keys.log(stream_id))
        await self.append(stream_id, ago=1_000_000)
        await self.replica.project(stream_id)
        [position] = await self.replica.positions(stream_id)
        await self.diverged.add(stream_id, position or "")


@pytest.fixture
async def world(client: Redis, keys: Keys, engine: AsyncEngine) -> World:
    await create_tallies(engine)
    return World(Replica(client, keys, engine, tallies()))


def told(found: list[SlowStream]) -> list[tuple[str, Standing, int | None]]:
    return [(s.stream_id, s.standing, s.waiting.events if s.waiting else None) for s in found]


async def every_kind(world: World) -> None:
    """Streams in each trouble, and some that are in none."""
    await world.projected("caught up", ago=5_000)
    await world.append("talk", ago=4_000, types="whatever whatever")  # nothing that is projected
    await world.projected("diverged", ago=300)
    await world.lost("diverged")
    await world.projected("gone", ago=250)
    await world.replica.redis.delete(world.replica.keys.log("gone"))
    await world.diverged.add("gone", "1-1")
    await world.append("blocked", ago=200, types="add fail add")
    await world.replica.project("blocked")
    await world.projected("behind", ago=5_000)
    await world.append("behind", ago=100, types="add whatever add")
    await world.append("new", ago=50)


async def test_every_stream_that_is_behind_is_found_the_slowest_first_with_the_reason(world: World) -> None:
    await every_kind(world)
    found = await world.slowest.find(10)
    assert told(found) == [
        ("diverged", DIVERGED, None),
        ("gone", GONE, None),
        ("blocked", BLOCKED, 2),
        ("behind", BEHIND, 2),
        ("new", BEHIND, 1),
    ]
    lags = [stream.lag_seconds for stream in found]
    for lag, expected in zip(lags, (300, 250, 200, 100, 50), strict=True):
        assert lag is not None
        assert expected - 1 <= lag < expected + 60


async def test_only_so_many_are_told(world: World) -> None:
    for number in range(30):
        await world.append(f"s{number}", ago=1_000 - number)
    assert [stream.stream_id for stream in await world.slowest.find(3)] == ["s0", "s1", "s2"]


async def test_many_events_are_not_counted_to_the_end(world: World) -> None:
    await world.replica.append_many("long", *["add"] * 5_000)
    [stream] = await world.slowest.find(3)
    assert stream.waiting
    assert not stream.waiting.counted
    assert 1_000 <= stream.waiting.events < 5_000


async def test_a_trimmed_log_is_behind_by_what_is_left_of_it(world: World) -> None:
    await world.projected("a", ago=500)
    await world.append("a", ago=100, types="add add")
    await world.replica.redis.xtrim(world.replica.keys.log("a"), maxlen=2, approximate=False)
    assert told(await world.slowest.find(3)) == [("a", BEHIND, 2)]


async def test_a_trimmed_log_is_placed_by_what_is_left_of_it(world: World) -> None:
    await world.projected("trimmed", ago=9_000)
    await world.append("trimmed", ago=50, types="add")
    await world.replica.redis.xtrim(world.replica.keys.log("trimmed"), maxlen=1, approximate=False)
    await world.append("late", ago=100)
    await world.projected("lost", ago=200)
    await world.lost("lost")
    assert told(await world.slowest.find(2)) == [("lost", DIVERGED, None), ("late", BEHIND, 1)]


async def test_to_count_what_waits_decodes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await every_kind(world)
    before = told(await world.slowest.find(8))

    def decode(*_: object) -> NoReturn:
        raise AssertionError("a payload was decoded")

    monkeypatch.setattr("worker.events.decode_object", decode)
    assert told(await world.slowest.find(8)) == before


async def test_a_stream_whose_events_are_not_found_in_time_is_behind_all_the_same(
    world: World,
) -> None:
    replica = world.replica
    await world.append("blocked", ago=100, types="whatever " * 50 + "fail")
    await replica.project("blocked")
    await world.append("late", ago=1_000, types="whatever " * 50 + "add")
    logs = Log(
        replica.redis, replica.keys, replica.projection.types, max_payload_bytes=1_000, page_bytes=1_000
    )
    slowest = Slowest(replica.redis, replica.engine, replica.keys, replica.projection, logs, pages_at_most=1)
    [late, blocked] = await slowest.look_at(["blocked", "late"])
    assert (late.stream_id, late.standing, late.lag_seconds) == ("late", BEHIND, None)
    assert late.waiting == Waiting(0, False, None)
    assert (blocked.standing, round(blocked.lag_seconds or 0, -1)) == (BLOCKED, 100)


async def test_a_look_that_costs_little_finds_who_stands_and_who_was_hinted_at_long_ago(world: World) -> None:
    await every_kind(world)
    client, keys = world.replica.redis, world.replica.keys
    feed = feed_of(client, keys, group="tallies")
    await feed.join()
    feed.hold(range(keys.partitions))
    await add_hints(client, keys, "caught up", "behind")
    taken = 0
    while taken < 2:  # and they stay pending
        taken += len(await feed.read(10))
    await add_hints(client, keys, "new", "nobody")
    found = told(await world.slowest.guess(8))
    assert found == told(await world.slowest.find(8))
    assert told(await world.slowest.guess(2)) == found[:2]


async def test_streams_that_a_projection_leaves_out_are_not_behind(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    await create_tallies(engine)
    narrow: Projection = tallies(streams="a*")
    world = World(Replica(client, keys, engine, narrow))
    await world.append("a", ago=100)
    await world.append("b", ago=200)
    assert told(await world.slowest.find(3)) == [("a", BEHIND, 1)]
    assert told(await world.slowest.look_at(["a", "b"])) == [("a", BEHIND, 1)]
