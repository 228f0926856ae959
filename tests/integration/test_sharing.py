"""Services that share the feed's partitions: who comes gets some, and who goes hands its own over."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack
from functools import partial

import pytest

from projections import strategies
from tests.backlog import Backlog
from tests.handler_calls import handler_calls
from tests.leaseless import NoLeases
from tests.servers import RunningServers
from tests.serving import Serving, serving
from tests.waiting import wait_until
from worker import Keys, service
from worker.leases import Leases
from worker.table import RowWrite

JOIN_SECONDS = 2
STOP_SECONDS = 1.5
MOST_REDONE = 0.05
PROJECTION = "strategies"


class Services:
    """Services on the same feed, all stopped at the end."""

    def __init__(self, servers: RunningServers, database_url: str, keys: Keys, stack: AsyncExitStack) -> None:
        self.keys = keys
        self._servers = servers
        self._database_url = database_url
        self._stack = stack

    async def start(self, make_leases: type[Leases] = Leases) -> Serving:
        return await self._stack.enter_async_context(
            serving(self._servers.redis_url, self._database_url, self.keys, make_leases=make_leases)
        )


@pytest.fixture
async def services(servers: RunningServers, database_url: str, keys: Keys) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        yield Services(servers, database_url, keys, stack)


def shared(*running: Serving, among: int = 8) -> bool:
    """Whether they read all partitions, each of them once, and each service about as many."""
    sizes = sorted(len(serving.held) for serving in running)
    everything = set[int]().union(*(serving.held for serving in running))
    return sum(sizes) == among and len(everything) == among and sizes[-1] - sizes[0] <= 1


async def all_are_projected(running: Serving, streams: Collection[str]) -> None:
    """Emit an event to each stream, and wait until all are in the table and acknowledged."""
    for stream_id, event_id in {s: await running.emit(s, "user_message") for s in streams}.items():
        await running.reached(stream_id, event_id)
    await running.acknowledged()


STREAMS = [f"s{number}" for number in range(40)]


async def test_a_replica_that_joins_soon_has_its_share(services: Services) -> None:
    running = [await services.start()]
    assert shared(*running)
    for _ in range(3):
        members = services.keys.live_replicas(PROJECTION)
        joining = asyncio.create_task(services.start())
        await wait_until(partial(more_than, running[0], members, len(running)), "it to join")
        started = time.monotonic()
        running.append(await joining)
        await wait_until(partial(shared, *running), "fair shares")
        assert time.monotonic() - started < JOIN_SECONDS
    await all_are_projected(running[0], STREAMS)


async def more_than(running: Serving, members: str, number: int) -> bool:
    return await running.admin.zcard(members) > number


async def test_a_replica_that_stops_hands_over_at_once(services: Services) -> None:
    stays, goes = await services.start(), await services.start()
    await wait_until(partial(shared, stays, goes), "fair shares")
    stopped = time.monotonic()
    stopping = asyncio.create_task(goes.stop())
    await all_are_projected(stays, STREAMS)
    assert shared(stays)
    assert time.monotonic() - stopped < STOP_SECONDS
    await stopping


async def test_a_replica_that_finishes_its_work_hands_over_partitions_and_keeps_hints(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, goes = await services.start(), await services.start()
    await wait_until(partial(shared, stays, goes), "fair shares")
    store, reached, gate = goes.service._projector._writer._store, asyncio.Event(), asyncio.Event()
    write = store.write

    async def held_up(writes: Sequence[RowWrite]) -> set[str]:
        reached.set()
        await gate.wait()
        return await write(writes)

    monkeypatch.setattr(store, "write", held_up)
    stream_id = next(s for s in STREAMS if goes.keys.partition(s) in goes.held)
    while not reached.is_set():  # At first the other may still be waiting for hints of this partition.
        event_id = await goes.emit(stream_id, "user_message")
        await wait_until(partial(settled, goes, reached), "the hint to be taken")
    stopping = asyncio.create_task(goes.stop())
    await wait_until(partial(shared, stays), "the others to take over")
    assert await stays.service._upkeep.inherit() == []
    assert not await stays.at(stream_id, event_id)
    gate.set()
    await stopping
    await stays.reached(stream_id, event_id)


async def settled(running: Serving, reached: asyncio.Event) -> bool:
    return reached.is_set() or await running.pending() == 0


async def test_more_replicas_than_partitions_stand_by_until_one_goes(
    servers: RunningServers, database_url: str, keys_prefix: str
) -> None:
    async with AsyncExitStack() as stack:
        services = Services(servers, database_url, Keys(keys_prefix, partitions=2), stack)
        running = [await services.start() for _ in range(3)]
        await wait_until(partial(shared, *running, among=2), "fair shares")
        await all_are_projected(running[0], STREAMS)
        goes = next(serving for serving in running if serving.held)
        await goes.stop()
        running.remove(goes)
        await wait_until(partial(shared, *running, among=2), "fair shares")
        await all_are_projected(running[0], STREAMS)


async def test_replicas_share_again_after_redis_forgot_everything(services: Services) -> None:
    running = [await services.start(), await services.start()]
    await wait_until(partial(shared, *running), "fair shares")
    redis, keys = running[0].admin, services.keys
    names = [name async for name in redis.scan_iter(f"{keys.prefix}*", count=1000)]
    await redis.delete(*names)
    await wait_until(partial(redis.exists, keys.leases(PROJECTION)), "leases")
    await wait_until(partial(shared, *running), "fair shares")
    await all_are_projected(running[0], STREAMS)


async def test_replicas_share_again_after_redis_came_back_as_it_was_before(services: Services) -> None:
    running = [await services.start(), await services.start()]
    await wait_until(partial(shared, *running), "fair shares")
    redis, leases = running[0].admin, services.keys.leases(PROJECTION)
    [first] = [serving.service._consumer for serving in running if 0 in serving.held]
    await redis.hset(leases, mapping={str(partition): first for partition in range(6)})

    async def is_fair() -> bool:
        return sorted(Counter(await redis.hvals(leases)).values()) == [4, 4]

    await wait_until(is_fair, "what is too much to be let go")
    await wait_until(partial(shared, *running), "fair shares")
    await all_are_projected(running[0], STREAMS)


async def test_events_are_applied_once_by_whichever_replica(services: Services) -> None:
    backlog = Backlog(streams=60, events=6_000)
    running = [await services.start() for _ in range(4)]
    await wait_until(partial(shared, *running), "fair shares")
    with handler_calls(strategies) as calls:
        await backlog.append(running[0].world.producer, services.keys)
        await running[0].acknowledged()
    tallies = [serving.service._projector.tally for serving in running]
    redone = sum(tally.events_redone for tally in tallies)
    assert sum(tally.events_applied for tally in tallies) == backlog.projected
    assert calls.number == backlog.projected + redone
    assert redone < MOST_REDONE * backlog.projected
    assert all(tally.events_applied for tally in tallies)
    for stream_id, event_id in backlog.last.items():
        assert await running[0].at(stream_id, event_id)


async def test_a_sweep_leaves_streams_to_the_replicas_that_read_their_hints(services: Services) -> None:
    running = [await services.start(), await services.start()]
    await wait_until(partial(shared, *running), "fair shares")
    events = {stream_id: await running[0].world.append(stream_id, "user_message") for stream_id in STREAMS}
    running[0].service._sweep.request()
    for stream_id, event_id in events.items():
        await running[0].reached(stream_id, event_id)
    tallies = [serving.service._projector.tally for serving in running]
    assert sum(tally.events_applied for tally in tallies) == len(STREAMS)
    assert min(tally.events_applied for tally in tallies) > len(STREAMS) / 4
    assert sum(tally.events_redone for tally in tallies) == 0


async def test_a_replica_tells_which_partitions_it_holds(services: Services) -> None:
    running = await services.start()
    report = await wait_until(running.report, "a report")
    assert report.partitions == list(range(8))


# Without leases.


async def test_without_leases_all_is_projected_just_the_same(services: Services) -> None:
    running = [await services.start(NoLeases) for _ in range(2)]
    assert [serving.held for serving in running] == [set(range(8))] * 2
    await all_are_projected(running[0], STREAMS)
    await running[1].stop()
    await all_are_projected(running[0], STREAMS)


# When hints may have been lost.


async def test_a_group_that_was_deleted_starts_a_sweep_whoever_has_the_lease(services: Services) -> None:
    running = await services.start()
    await running.admin.set(services.keys.sweep_lease(PROJECTION), "somebody else")
    event_id = await running.world.append("a", "user_message")
    await running.admin.xgroup_destroy(services.keys.feed(0), PROJECTION)
    await running.reached("a", event_id)


async def test_a_hint_that_was_trimmed_while_it_was_pending_starts_a_sweep(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_HOUSEKEEPING_SECONDS", 0.02)
    running = await services.start()
    await running.admin.set(services.keys.sweep_lease(PROJECTION), "somebody else")
    event_id = await running.world.append("a", "user_message")
    feed = services.keys.feed(0)
    async with running.admin.pipeline(transaction=True) as somebody_dies:
        somebody_dies.xadd(feed, {"stream": "a"})
        somebody_dies.xreadgroup(PROJECTION, "dead", {feed: ">"})
        somebody_dies.xtrim(feed, maxlen=0, approximate=False)
        await somebody_dies.execute()
    await running.reached("a", event_id)
