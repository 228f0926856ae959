"""The service when servers forget or are away: nothing is lost, and it goes on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import timedelta

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.exc import OperationalError

from tests.feeds import feed_of, read_all
from tests.servers import RunningServers
from tests.serving import Serving, serving
from tests.waiting import wait_until
from worker import Keys, service
from worker.feed import Feed
from worker.feed_upkeep import FeedUpkeep
from worker.hint import Hint
from worker.log import Log, Page, PageRequest, ReadTerms
from worker.store import Loaded, Store


@pytest.fixture(autouse=True)
def _busy_housekeeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_HOUSEKEEPING_SECONDS", 0.02)
    monkeypatch.setattr(service, "_REPORT_SECONDS", 0.02)


@pytest.fixture
async def running(servers: RunningServers, database_url: str, keys: Keys) -> AsyncIterator[Serving]:
    async with serving(servers.redis_url, database_url, keys, claim_after_seconds=0.01) as running:
        yield running


class Outage:
    """PostgreSQL is away: loading rows fails until it is over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lasts = True
        self.attempts = 0
        outage, load = self, Store.load

        async def fail(store: Store, stream_ids: Collection[str]) -> Loaded:
            if outage.lasts:
                outage.attempts += 1
                raise OperationalError("SELECT", {}, ConnectionError("the server is away"))
            return await load(store, stream_ids)

        monkeypatch.setattr(Store, "load", fail)


@pytest.fixture
def outage(running: Serving, monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch)


# Redis forgets.


async def test_a_feed_that_was_deleted_is_made_again(running: Serving) -> None:
    await running.reached("a", await running.emit("a", "user_message"))
    feeds = [running.keys.feed(partition) for partition in range(running.keys.partitions)]
    await running.admin.delete(*feeds)
    await wait_until(lambda: running.admin.exists(feeds[-1]), "the feed")
    await running.reached("a", await running.emit("a", "user_message"))
    await running.acknowledged()


async def test_a_group_that_was_deleted_is_made_again(running: Serving) -> None:
    await running.reached("a", await running.emit("a", "user_message"))
    for partition in range(running.keys.partitions):
        await running.admin.xgroup_destroy(running.keys.feed(partition), "strategies")
    await running.reached("b", await running.emit("b", "user_message"))


async def test_everything_but_the_logs_may_be_lost(
    servers: RunningServers, database_url: str, keys: Keys
) -> None:
    async with serving(servers.redis_url, database_url, keys, sweep_seconds=0.1) as running:
        await running.reached("a", await running.emit("a", "user_message"))
        others = [key async for key in running.admin.scan_iter(f"{keys.prefix}*", count=1000)]
        await running.admin.delete(*(key for key in others if not key.startswith(keys.log_prefix.encode())))
        for stream_id in ("a", "b"):
            await running.reached(stream_id, await running.world.append(stream_id, "user_message"))
        await running.reached("c", await running.emit("c", "user_message"))


async def test_a_read_whose_reply_was_lost_loses_no_hint(
    running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, lost = Feed.read, list[Hint]()

    async def lose(feed: Feed, count: int) -> list[Hint]:
        hints = await read(feed, count)
        if hints and not lost:
            lost.extend(hints)
            raise RedisConnectionError("the reply was lost")
        return hints

    monkeypatch.setattr(Feed, "read", lose)
    for stream_id in "ab":
        await running.reached(stream_id, await running.emit(stream_id, "user_message"))
    assert lost
    await running.acknowledged()


# Other replicas die.


async def test_hints_that_a_dead_replica_has_read_are_taken_over(
    servers: RunningServers, database_url: str, keys: Keys, running: Serving
) -> None:
    await running.stop()
    dead = feed_of(running.redis, keys, group="strategies", consumer="dead")
    await dead.join()
    event_id = await running.emit("a", "user_message")
    assert await read_all(running.redis, keys, dead)
    async with serving(servers.redis_url, database_url, keys, claim_after_seconds=0.01) as heir:
        await heir.reached("a", event_id)
        await heir.acknowledged()


# PostgreSQL is away.


async def test_while_postgresql_is_away_hints_wait_and_afterwards_all_is_projected(
    running: Serving, outage: Outage
) -> None:
    events = {stream_id: await running.emit(stream_id, "user_message") for stream_id in "abc"}
    await wait_until(lambda: outage.attempts >= 3, "three attempts")
    assert await running.pending() == 3
    outage.lasts = False
    for stream_id, event_id in events.items():
        await running.reached(stream_id, event_id)
    await running.acknowledged()


async def test_while_postgresql_is_away_the_replica_says_so(running: Serving, outage: Outage) -> None:
    await running.emit("a", "user_message")

    async def troubles() -> list[str]:
        report = await running.report()
        return report.troubles if report else []

    async def ready() -> bool:
        report = await running.report()
        return report is not None and report.ready

    told = await wait_until(troubles, "the replica to report trouble")
    assert "projecting" in told[0]
    assert "the server is away" in told[0]
    outage.lasts = False
    await wait_until(ready, "the replica to be ready")


async def test_while_postgresql_is_away_hints_do_not_pile_up(running: Serving, outage: Outage) -> None:
    for number in range(30):
        await running.emit(f"s{number}", "user_message")
    claims = 0
    claim = FeedUpkeep.claim_abandoned

    async def note(upkeep: FeedUpkeep, idle: timedelta) -> list[Hint]:
        nonlocal claims
        hints = await claim(upkeep, idle)
        claims += len(hints)
        return hints

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeedUpkeep, "claim_abandoned", note)
        await wait_until(lambda: claims >= 200, "hints to be claimed again and again")

        async def told() -> int | None:
            report = await running.report()
            return report.hints_in_hand if report else None

        assert await wait_until(told, "a report") <= 30
    outage.lasts = False


async def test_a_stop_while_postgresql_is_away_leaves_the_hints_to_others(
    servers: RunningServers, database_url: str, keys: Keys, running: Serving, outage: Outage
) -> None:
    event_id = await running.emit("a", "user_message")
    await wait_until(lambda: outage.attempts, "an attempt")
    await running.stop()
    assert await running.pending() == 1
    outage.lasts = False
    async with serving(servers.redis_url, database_url, keys, claim_after_seconds=0.01) as other:
        await other.reached("a", event_id)
        await other.acknowledged()


async def test_a_log_that_cannot_be_read_for_a_while_is_read_later(
    running: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failures = Log.read, [RedisConnectionError("away")] * 2

    async def fail(log: Log, requests: Sequence[PageRequest], *terms: ReadTerms) -> list[Page]:
        if failures:
            raise failures.pop()
        return await read(log, requests, *terms)

    monkeypatch.setattr(Log, "read", fail)
    await running.reached("a", await running.emit("a", "user_message"))
    assert not failures


async def test_a_stop_does_not_wait_for_room_that_is_never_made(
    running: Serving, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.service._pending, "_max_hints", 1)
    for number in range(5):
        await running.emit(f"s{number}", "user_message")
    await wait_until(lambda: outage.attempts, "an attempt")
    await asyncio.wait_for(running.stop(), 5)
