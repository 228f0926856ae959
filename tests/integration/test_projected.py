"""Waiting for one's own write, while a worker runs, stands still, or cannot get on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.letters import stop
from tests.projecting import Replica, run
from tests.rights import ADMINISTRATOR, PRODUCER, REDIS_READER, as_user, client_as
from tests.servers import RunningServers
from tests.serving import Serving, serving
from tests.tallies import tallies
from tests.waiting import wait_until
from tests.writes import create_tallies
from worker import (
    EventId,
    Keys,
    NotProjectedError,
    Projection,
    ProjectionTimeoutError,
    StreamBlockedError,
    StreamDivergedError,
    awaited,
    projected,
    wait_until_projected,
    watcher,
)
from worker.errors import DeclarationError
from worker.moved import write_moved

LONG = 30.0
SHORT = 0.3


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    assert not projected._watches


@pytest.fixture
def no_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are looked at once, and then only if somebody wakes the waiter."""
    monkeypatch.setattr(awaited, "_FIRST_PAUSE_SECONDS", LONG)
    monkeypatch.setattr(watcher, "LONGEST_PAUSE_SECONDS", LONG)
    monkeypatch.setattr(watcher, "LONGEST_DEAF_PAUSE_SECONDS", LONG)


@pytest.fixture
async def running(servers: RunningServers, database_url: str, keys: Keys) -> AsyncIterator[Serving]:
    async with serving(servers.redis_url, database_url, keys) as running:
        yield running


@pytest.fixture
def replica(client: Redis, keys: Keys, engine: AsyncEngine) -> Replica:
    return Replica(client, keys, engine)


class Waits:
    """Waits with what a test has at hand."""

    def __init__(self, engine: AsyncEngine, redis: Redis | None, keys: Keys) -> None:
        self.engine, self.redis, self.keys = engine, redis, keys
        self.projection: Projection = strategies

    async def __call__(self, stream_id: str, event_id: str | EventId, seconds: float = LONG) -> float:
        """Wait; how many seconds that took."""
        started = time.monotonic()
        await wait_until_projected(
            self.engine,
            stream_id,
            event_id,
            seconds,
            projection=self.projection,
            redis=self.redis,
            keys=self.keys,
        )
        return time.monotonic() - started

    def start(self, stream_id: str, event_id: str, seconds: float = LONG) -> asyncio.Task[float]:
        return asyncio.create_task(self(stream_id, event_id, seconds))


@pytest.fixture
def waits(reading: AsyncEngine, reader: Redis, keys: Keys) -> Waits:
    return Waits(reading, reader, keys)


async def subscribed(redis: Redis, keys: Keys, subscribers: int = 1) -> None:
    """Wait until so many clients hear workers."""
    channel = keys.moved(strategies.name)

    async def all_are() -> bool:
        return bool((await client_as(redis, ADMINISTRATOR).pubsub_numsub(channel))[0][1] == subscribers)

    await wait_until(all_are, "subscribers")


# A worker runs.


async def test_a_wait_ends_when_the_row_shows_the_event(running: Serving, waits: Waits) -> None:
    for number in range(1, 4):
        event_id = await running.emit("a", "user_message")
        await waits("a", event_id if number % 2 else EventId.parse(event_id))
        row = await running.world.row("a")
        assert row is not None
        assert row["message_count"] == number


async def test_an_event_that_is_in_its_row_already_ends_the_wait_at_once(
    running: Serving, waits: Waits
) -> None:
    first = await running.emit("a", "user_message")
    await running.reached("a", await running.emit("a", "user_message"))
    assert await waits("a", first) < 5


@pytest.mark.usefixtures("no_polls")
async def test_a_waiter_is_woken_by_a_message(running: Serving, waits: Waits, redis: Redis) -> None:
    event_id = await running.world.append("a", "user_message")
    waiting = waits.start("a", event_id)
    await subscribed(redis, running.keys)
    await asyncio.wait({waiting}, timeout=SHORT)
    assert not waiting.done(), "without a hint nothing is projected"
    await running.admin.xadd(running.keys.feed(0), {"stream": "a", "type": "user_message"})
    assert await waiting < LONG / 3


@pytest.mark.usefixtures("no_polls")
@pytest.mark.parametrize("message", [write_moved([]), b"nonsense", write_moved(["b", "a"])])
async def test_a_message_that_names_no_stream_wakes_all(
    replica: Replica, waits: Waits, redis: Redis, message: bytes
) -> None:
    waiting = waits.start("a", await replica.append("a", "user_message"))
    await subscribed(redis, replica.keys)
    await asyncio.wait({waiting}, timeout=SHORT)
    await replica.project("a")
    await redis.publish(replica.keys.moved(strategies.name), message)
    assert await waiting < LONG / 3


async def test_a_server_that_takes_no_messages_holds_up_nothing(
    servers: RunningServers, database_url: str, keys: Keys, waits: Waits, redis: Redis
) -> None:
    user = keys.prefix.strip(":")
    await redis.acl_setuser(user, enabled=True, nopass=True, keys=["*"], commands=["+@all", "-publish"])
    try:
        url = servers.redis_url.replace("redis://", f"redis://{user}:any@", 1)
        async with serving(url, database_url, keys) as running:
            await waits("a", await running.emit("a", "user_message"))
            await running.acknowledged()
            await running.stop()
    finally:
        await redis.acl_deluser(user)


async def test_without_a_client_rows_are_polled(running: Serving, waits: Waits) -> None:
    waits.redis = None
    await waits("a", await running.emit("a", "user_message"))


async def test_many_waiters_share_one_connection_to_each_server(
    servers: RunningServers, database_url: str, keys: Keys, engine: AsyncEngine, redis: Redis
) -> None:
    name = keys.prefix.strip(":")
    own = Redis.from_url(as_user(servers.redis_url, REDIS_READER), client_name=name)
    waits = Waits(engine, own, keys)
    replica = Replica(redis, keys, engine)
    event_ids = {f"s{n}": "1-0" for n in range(2_000)}
    async with client_as(redis, PRODUCER).pipeline(transaction=False) as pipeline:
        for stream_id, event_id in event_ids.items():
            fields: Any = {"op": "", "type": "user_message", "data": "{}"}
            pipeline.xadd(keys.log(stream_id), fields, id=event_id)
        await pipeline.execute()
    waiting = [waits.start(stream_id, event_id) for stream_id, event_id in event_ids.items()]
    await subscribed(redis, keys)
    most: dict[str, int] = {}
    async with serving(servers.redis_url, database_url, keys, sweep_seconds=0.2):
        while not all(task.done() for task in waiting):
            for kind, connections in (await connections_of(redis, replica, name)).items():
                most[kind] = max(most.get(kind, 0), connections)
            await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert most == {"subscriptions": 1, "commands": 1, "postgresql": 1}
    await own.aclose()


async def connections_of(redis: Redis, replica: Replica, name: str) -> dict[str, int]:
    clients = [client for client in await redis.client_list() if client["name"] == name]
    # Without the one that asks.
    sql = """SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test'
             AND datname = current_database() AND pid <> pg_backend_pid()"""
    async with replica.engine.connect() as connection:
        sessions = (await connection.exec_driver_sql(sql)).scalar_one()
    subscriptions = sum(client["sub"] == "1" for client in clients)
    return {
        "subscriptions": subscriptions,
        "commands": len(clients) - subscriptions,
        "postgresql": sessions,
    }


# Answers of their own.


@pytest.mark.parametrize("event_type", ["assistant_delta", "error"])
async def test_an_event_that_is_not_projected_ends_the_wait_at_once(
    replica: Replica, waits: Waits, event_type: str
) -> None:
    await waits("new", await replica.append("new", event_type))
    await replica.append("a", "user_message")
    await replica.project("a")
    assert await waits("a", await replica.append("a", event_type)) < LONG / 3


async def test_an_event_that_is_not_projected_waits_for_those_before_it(
    replica: Replica, waits: Waits
) -> None:
    await replica.append_many("a", "user_message", *["assistant_delta"] * 1_000)
    waiting = waits.start("a", "1001-0")
    await asyncio.wait({waiting}, timeout=SHORT)
    assert not waiting.done()
    await replica.project("a")
    await waiting


async def test_large_events_before_one_that_is_not_projected_are_read_in_small_pieces(
    replica: Replica, waits: Waits
) -> None:
    for number in range(1, 13):
        await replica.append("a", "assistant_delta", {"text": "x" * 300_000}, at=f"{number}-0")
    await waits("a", "12-0")


async def test_an_event_that_was_deleted_is_not_waited_for(replica: Replica, waits: Waits) -> None:
    await replica.append("a", "user_message", at="1-0")
    await replica.project("a")
    await replica.append("a", "user_message", at="2-0")
    await replica.admin.xdel(replica.keys.log("a"), "2-0")
    await waits("a", "2-0")


async def test_a_blocked_stream_is_an_answer(
    servers: RunningServers, database_url: str, keys: Keys, waits: Waits, engine: AsyncEngine
) -> None:
    await create_tallies(engine)
    await asyncio.to_thread(servers.grant, as_user(database_url, ADMINISTRATOR))
    waits.projection = tallies()
    async with serving(servers.redis_url, database_url, keys, waits.projection) as running:
        before = await running.emit("a", "add", {"n": 1})
        failing = await running.emit("a", "fail")
        after = await running.emit("a", "add", {"n": 1})
        await waits("a", before)
        for event_id in (failing, after):
            with pytest.raises(StreamBlockedError) as caught:
                await waits("a", event_id)
            error = caught.value
            assert (error.position, error.stopped_before) == (before, failing)
            assert error.reason == "handler_failed"


@pytest.mark.usefixtures("no_polls")
async def test_a_stream_that_gets_blocked_wakes_its_waiters(
    servers: RunningServers, database_url: str, keys: Keys, waits: Waits, engine: AsyncEngine
) -> None:
    await create_tallies(engine)
    await asyncio.to_thread(servers.grant, as_user(database_url, ADMINISTRATOR))
    waits.projection = tallies()
    async with serving(servers.redis_url, database_url, keys, waits.projection) as running:
        event_id = await running.world.append("a", "fail")
        waiting = waits.start("a", event_id)
        await asyncio.wait({waiting}, timeout=SHORT)
        await running.admin.xadd(keys.feed(0), {"stream": "a", "type": "fail"})
        with pytest.raises(StreamBlockedError):
            await waiting


async def test_a_letter_of_an_older_version_or_a_later_event_is_no_answer(
    replica: Replica, waits: Waits, engine: AsyncEngine
) -> None:
    await replica.append_many("a", "user_message", "user_message")
    await stop(engine, "a", "2-0")
    await stop(engine, "b", "1-0", version=0)
    await replica.append_many("b", "user_message")
    for stream_id in "ab":
        with pytest.raises(ProjectionTimeoutError):
            await waits(stream_id, "1-0", SHORT)


async def test_a_diverged_stream_is_an_answer(replica: Replica, waits: Waits) -> None:
    await replica.append_many("a", "user_message", "user_message")
    await replica.project("a")
    await replica.admin.xdel(replica.keys.log("a"), "2-0")
    await replica.append("a", "user_message", at="3-0")
    with pytest.raises(StreamDivergedError) as caught:
        await waits("a", "3-0")
    assert caught.value.position == "2-0"


async def test_a_log_that_is_gone_is_diverged(replica: Replica, waits: Waits) -> None:
    await replica.append_many("a", "user_message")
    await replica.project("a")
    await replica.admin.delete(replica.keys.log("a"))
    with pytest.raises(StreamDivergedError):
        await waits("a", "2-0")


async def test_a_log_that_was_trimmed_is_waited_for(replica: Replica, waits: Waits) -> None:
    await replica.append_many("a", "user_message", "user_message")
    await replica.project("a")
    await replica.append("a", "user_message", at="3-0")
    await replica.admin.xtrim(replica.keys.log("a"), minid="3-0", approximate=False)
    waiting = waits.start("a", "3-0")
    await asyncio.wait({waiting}, timeout=SHORT)
    assert not waiting.done()
    replica.cache.pop("a")
    await replica.project("a")
    await waiting


async def test_the_answer_when_the_time_is_up_says_where_the_row_stands(
    replica: Replica, waits: Waits
) -> None:
    event_id = await replica.append("a", "user_message")
    with pytest.raises(ProjectionTimeoutError, match="it has no row yet") as caught:
        await waits("a", event_id, SHORT)
    assert caught.value.position is None
    await replica.project("a")
    later = await replica.append("a", "user_message")
    with pytest.raises(ProjectionTimeoutError, match=f"its row stands at {event_id}, ") as caught:
        await waits("a", later, SHORT)
    assert (caught.value.stream_id, caught.value.event_id) == ("a", later)
    assert "See `projection-worker status`" in str(caught.value)
    await run(replica.engine, "UPDATE stream_projections SET last_event_id = NULL")
    with pytest.raises(ProjectionTimeoutError, match="its row has no position yet"):
        await waits("a", later, SHORT)


async def test_other_keys_than_those_of_the_producer_are_told_of(
    servers: RunningServers, replica: Replica, waits: Waits
) -> None:
    servers.guard(f"{replica.keys.prefix}*")
    event_id = await replica.append("a", "user_message")
    waits.keys = Keys(f"{replica.keys.prefix}other:")
    with pytest.raises(ProjectionTimeoutError, match="The log does not reach that event"):
        await waits("a", event_id, SHORT)


async def test_a_row_that_is_deleted_is_waited_for_again(replica: Replica, waits: Waits) -> None:
    await replica.append("a", "user_message")
    await replica.project("a")
    later = await replica.append("a", "user_message")
    waiting = waits.start("a", later)
    await run(replica.engine, "DELETE FROM stream_projections")
    await asyncio.wait({waiting}, timeout=SHORT)
    assert not waiting.done()
    replica.cache.pop("a")
    await replica.project("a")
    await waiting


async def test_a_row_of_another_version_counts(replica: Replica, waits: Waits) -> None:
    event_id = await replica.append("a", "user_message")
    await replica.project("a")
    await run(replica.engine, "UPDATE stream_projections SET version = 7")
    await waits("a", event_id)


@pytest.mark.parametrize(
    ("stream_id", "event_id"), [("a\0", "1-0"), ("\ud800", "1-0"), ("a" * 513, "1-0"), ("a", "1"), ("a", "")]
)
async def test_what_no_event_can_be_called_disturbs_nobody_else(
    replica: Replica, waits: Waits, stream_id: str, event_id: str
) -> None:
    waiting = waits.start("a", await replica.append("a", "user_message"))
    await asyncio.wait({waiting}, timeout=0.01)
    with pytest.raises(ValueError, match="is no"):
        await waits(stream_id, event_id)
    await replica.project("a")
    await waiting


# Which projection.


async def test_the_projection_is_the_one_that_the_environment_declares(
    running: Serving, waits: Waits, engine: AsyncEngine, redis: Redis
) -> None:
    event_id = await running.emit("a", "user_message")
    await wait_until_projected(engine, "a", event_id, LONG, redis=redis, keys=running.keys)


async def test_several_declared_projections_are_a_clear_error(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_PROJECTIONS", "tests.two_projections")
    projected._declared_projection.cache_clear()
    with pytest.raises(DeclarationError, match=r"\(others, tallies\): give .* projection="):
        await wait_until_projected(engine, "a", "1-0", LONG)
    projected._declared_projection.cache_clear()


def test_every_answer_but_the_good_one_can_be_caught_at_once() -> None:
    for answer in (StreamBlockedError, StreamDivergedError, ProjectionTimeoutError):
        assert issubclass(answer, NotProjectedError)


@pytest.mark.parametrize("options", [{"decode_responses": True}, {"protocol": 2}, {"socket_timeout": 0.1}])
async def test_any_client_of_an_application_will_do(
    running: Serving, servers: RunningServers, waits: Waits, options: dict[str, Any]
) -> None:
    own = waits.redis = Redis.from_url(as_user(servers.redis_url, REDIS_READER), **options)
    await waits("a", await running.emit("a", "user_message"))
    await waits("a", await running.emit("a", "assistant_delta"))
    await own.aclose()
