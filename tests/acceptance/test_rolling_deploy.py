"""Deploying a new version of a projection while the old one still runs, with real workers, under load."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from itertools import count

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.acceptance.commands import RunningCommand, call, running, worker_environment
from tests.later_strategies import strategies as second
from tests.projecting import run
from tests.rights import PRODUCER, client_as
from tests.servers import RunningServers
from tests.waiting import wait_until
from worker import Keys, emit
from worker.app import connect, make_log
from worker.comparison import compare_table
from worker.database import make_engine, parse_database_url
from worker.settings import Settings
from worker.waiting import wait_for

STREAMS = [f"s{number}" for number in range(60)]
BUSY = STREAMS[:40]
PAUSE_SECONDS = 0.002
START_SECONDS = 30

# What was written when, by which version: the table itself shows only who was the last.
AUDIT = (
    "CREATE TABLE audit (number bigserial PRIMARY KEY, stream_id text, version int)",
    """CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
       'BEGIN
          INSERT INTO audit (stream_id, version) VALUES (NEW.stream_id, NEW.version); RETURN NULL;
        END'""",
    """CREATE TRIGGER audit AFTER INSERT OR UPDATE ON stream_projections
       FOR EACH ROW EXECUTE FUNCTION audit()""",
)
OLD_AFTER_NEW = text("""
    SELECT count(*) FROM audit AS old
    WHERE version = 1 AND EXISTS (
        SELECT FROM audit AS new
        WHERE new.stream_id = old.stream_id AND new.version = 2 AND new.number < old.number)""")


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(parse_database_url(database_url), pool_size=2, application_name="test")
    yield engine
    await engine.dispose()


class Deployment:
    """Workers of both versions, and a producer that never pauses for long."""

    def __init__(self, stack: ExitStack, env: dict[str, str], redis: Redis, engine: AsyncEngine) -> None:
        self._stack = stack
        self.env = env
        self.redis = redis
        self.engine = engine
        self.keys = Keys(env["WORKER_KEY_PREFIX"])

    def start(self, name: str, version: int) -> RunningCommand:
        """Start a worker."""
        env = self.of(version) | {"WORKER_CONSUMER_NAME": name}
        return self._stack.enter_context(running("run", env=env))

    def of(self, version: int) -> dict[str, str]:
        """The environment for commands of a version."""
        return self.env | ({"WORKER_PROJECTIONS": "tests.later_strategies"} if version == 2 else {})

    async def emit(self, stream_id: str, number: int) -> str:
        event_type = ("user_message", "assistant_message", "strategy_link")[number % 3]
        data = {"wdkStrategyId": number % 7} if event_type == "strategy_link" else {}
        return await emit(client_as(self.redis, PRODUCER), stream_id, "", event_type, data, keys=self.keys)

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[None]:
        """Events in the busy streams all the time."""
        stop = asyncio.Event()

        async def produce() -> None:
            for number in count():
                await self.emit(BUSY[number % len(BUSY)], number)
                if await wait_for(stop, PAUSE_SECONDS):
                    return

        task = asyncio.create_task(produce())
        try:
            yield
        finally:
            stop.set()
            await task

    async def count(self, query: str) -> int:
        async with self.engine.connect() as connection:
            return int((await connection.execute(text(query))).scalar_one())

    async def upgraded(self, at_least: int) -> bool:
        return await self.count("SELECT count(*) FROM stream_projections WHERE version = 2") >= at_least

    async def holders(self) -> set[str]:
        """Who holds partitions."""
        held = await self.redis.execute_command("HVALS", self.keys.leases(second.name))
        return {holder.decode() for holder in held}

    async def held_by(self, *names: str) -> bool:
        return await self.holders() == set(names)


@pytest.fixture
async def deployment(
    servers: RunningServers, database_url: str, engine: AsyncEngine, keys_prefix: str, redis: Redis
) -> AsyncIterator[Deployment]:
    await run(engine, *AUDIT)
    env = worker_environment(servers.redis_url, database_url, keys_prefix)
    with ExitStack() as stack:
        yield Deployment(stack, env, redis, engine)


async def test_a_rolling_deploy_under_load_ends_with_the_new_fold_of_every_row(
    deployment: Deployment, servers: RunningServers, database_url: str
) -> None:
    for number, stream_id in enumerate(STREAMS * 3):
        await deployment.emit(stream_id, number)
    old = [deployment.start(name, 1) for name in ("old-1", "old-2")]
    rows = "SELECT count(*) FROM stream_projections"
    await wait_until(partial(_is, deployment, rows, len(STREAMS)), "all rows", START_SECONDS)
    async with deployment.producing():
        deployment.start("new-1", 2)
        await wait_until(partial(deployment.upgraded, 5), "some rows of version 2", START_SECONDS)
        assert await asyncio.to_thread(old[0].stop) == 0
        deployment.start("new-2", 2)
        news = partial(deployment.held_by, "new-1", "new-2")
        await wait_until(news, "the old one to stand back", START_SECONDS)
        await wait_until(partial(deployment.upgraded, len(BUSY)), "all busy rows of version 2", START_SECONDS)
        await asyncio.to_thread(old[1].stop, signal.SIGKILL)
        rebuilt = await asyncio.to_thread(call, "rebuild", "--stale", env=deployment.of(2))
        assert rebuilt.returncode == 0, rebuilt.stderr

    settings = Settings(
        redis_url=servers.redis_url, database_url=database_url, key_prefix=deployment.keys.prefix
    )
    async with connect(settings) as both:
        logs = make_log(settings, both.redis, second)

        async def all_is_right() -> bool:
            comparison = await compare_table(logs, both.engine, second)
            return comparison.wrong_rows == 0 and comparison.rows == len(STREAMS)

        await wait_until(all_is_right, "every row to be the new fold of its log", START_SECONDS)
    async with deployment.engine.connect() as connection:
        assert (await connection.execute(OLD_AFTER_NEW)).scalar_one() == 0


async def test_when_the_new_version_is_taken_back_the_old_one_works_again(deployment: Deployment) -> None:
    deployment.start("old", 1)
    await wait_until(partial(deployment.held_by, "old"), "the old one to work", START_SECONDS)
    new = deployment.start("new", 2)
    await wait_until(partial(deployment.held_by, "old", "new"), "both to work", START_SECONDS)
    for number, stream_id in enumerate(STREAMS):
        await deployment.emit(stream_id, number)
    rows = "SELECT count(*) FROM stream_projections"
    await wait_until(partial(_is, deployment, rows, len(STREAMS)), "all rows")
    of_the_new = f"{rows} WHERE version = 2"
    numbers = count(1)

    async def the_old_one_has_met_rows_of_the_new() -> bool:
        number = next(numbers)
        for stream_id in STREAMS:
            await deployment.emit(stream_id, number)
        return await deployment.held_by("new")

    await wait_until(the_old_one_has_met_rows_of_the_new, "the old one to stand back", START_SECONDS)
    assert await deployment.count(of_the_new) > 0
    assert await asyncio.to_thread(new.stop) == 0
    await wait_until(partial(deployment.held_by, "old"), "the old one to work again", START_SECONDS)
    await emit(client_as(deployment.redis, PRODUCER), "fresh", "", "user_message", {}, keys=deployment.keys)
    fresh = "SELECT count(*) FROM stream_projections WHERE stream_id = 'fresh' AND version = 1"
    await wait_until(partial(_is, deployment, fresh, 1), "the old version to project")

    async def nothing_is_pending() -> bool:
        groups = [
            group
            for partition in range(deployment.keys.partitions)
            for group in await deployment.redis.xinfo_groups(deployment.keys.feed(partition))
        ]
        return all(group["pending"] == 0 for group in groups)

    await wait_until(nothing_is_pending, "hints of rows of the new version to be let go", START_SECONDS)


async def _is(deployment: Deployment, query: str, number: int) -> bool:
    return await deployment.count(query) == number
