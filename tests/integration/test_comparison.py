"""The comparison on real servers: what was projected is right, and what was damaged is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.servers import RunningServers
from worker.blocked import BlockedStreams
from worker.cache import RowCache
from worker.comparison import Comparison, compare_table
from worker.database import make_engine, parse_database_url
from worker.difference import Difference
from worker.emit import emit
from worker.keys import Keys
from worker.log import Log
from worker.outcome import Outcome
from worker.projector import Projector
from worker.redis_client import make_client
from worker.store import Store

PLAN = {"root": {"searchName": "s"}, "numbers": [1e23, 1.50, -0.0, 10**30, 1e-7]}


@dataclass(frozen=True, slots=True)
class World:
    """Three conversations in their logs, and what to project and compare them with."""

    logs: Log
    engine: AsyncEngine

    async def project(self) -> None:
        store, blocked = Store(self.engine, strategies), BlockedStreams(self.engine, strategies)
        projector = Projector(strategies, self.logs, store, blocked, RowCache(0))
        waiting = ["a", "b", "c"]
        while waiting:
            results = await projector.project_batch(waiting)
            waiting = [s for s in waiting if results[s].outcome is not Outcome.CAUGHT_UP]

    async def damage(self, statement: str) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(text(statement))

    async def compare(self) -> Comparison:
        return await compare_table(self.logs, self.engine, strategies)


@pytest.fixture
async def world(
    servers: RunningServers, keys_prefix: str, database_url: str, producer: Redis
) -> AsyncIterator[World]:
    keys = Keys(keys_prefix)
    redis: Redis = make_client(servers.redis_url)
    engine = make_engine(parse_database_url(database_url), pool_size=2, application_name="test")
    for stream_id in ("a", "b", "c"):
        for number in range(30):
            await emit(producer, stream_id, "", "user_message", {"content": str(number)}, keys=keys)
            await emit(producer, stream_id, "", "assistant_delta", {"delta": "x"}, keys=keys)
        await emit(producer, stream_id, "", "strategy_link", {"wdkStrategyId": 7, "isSaved": True}, keys=keys)
        await emit(producer, stream_id, "", "graph_plan", {"plan": PLAN}, keys=keys)
    await producer.xadd(keys.log("c"), {"op": "", "type": "user_message", "data": "no JSON"})
    # Pages of a few entries, so that a log has many.
    yield World(Log(redis, keys, strategies.types, max_payload_bytes=10_000, page_bytes=1), engine)
    await engine.dispose()
    await redis.aclose()


async def test_projected_rows_are_right(world: World) -> None:
    await world.project()
    assert await world.compare() == Comparison(rows=3, differences=(), missing=(), extra=())


async def test_rows_that_are_not_projected_yet_are_missing(world: World) -> None:
    assert (await world.compare()).missing == ("a", "b", "c")


@pytest.mark.parametrize(
    ("damage", "wrong"),
    [
        ("message_count = message_count + 1", ["message_count"]),
        ("name = 'x', model_id = ''", ["name", "model_id"]),
        ("plan = jsonb_set(plan, '{numbers,0}', '100000000000000000000001')", ["plan"]),
        ("steps = 'null'", ["steps"]),
        ("wdk_strategy_id = 8, is_saved = true", ["wdk_strategy_id", "is_saved"]),
        ("updated_at = updated_at + interval '1 millisecond'", ["updated_at"]),
        ("first_event_id = '1-1'", ["first_event_id"]),
    ],
)
async def test_damage_to_a_row_is_told_by_column(world: World, damage: str, wrong: list[str]) -> None:
    await world.project()
    await world.damage(f"UPDATE stream_projections SET {damage} WHERE stream_id = 'b'")
    comparison = await world.compare()
    assert sorted(difference.column for difference in comparison.differences) == sorted(wrong)
    assert {difference.stream_id for difference in comparison.differences} == {"b"}
    assert comparison.wrong_rows == 1


async def test_a_claim_that_the_table_gives_to_the_wrong_stream_is_two_wrong_rows(world: World) -> None:
    await world.project()
    await world.damage("UPDATE stream_projections SET wdk_strategy_id = NULL WHERE stream_id = 'c'")
    await world.damage("UPDATE stream_projections SET wdk_strategy_id = 7 WHERE stream_id = 'a'")
    assert (await world.compare()).differences == (
        Difference("a", "wdk_strategy_id", None, 7),
        Difference("c", "wdk_strategy_id", 7, None),
    )


async def test_rows_that_were_deleted_or_made_up_are_told(world: World) -> None:
    await world.project()
    await world.damage("DELETE FROM stream_projections WHERE stream_id = 'a'")
    await world.damage("INSERT INTO stream_projections (stream_id, last_event_id) VALUES ('ghost', '1-0')")
    await world.damage("INSERT INTO stream_projections (stream_id) VALUES ('not projected yet')")
    comparison = await world.compare()
    assert (comparison.missing, comparison.extra) == (("a",), ("ghost",))
    assert (comparison.rows, comparison.wrong_rows) == (4, 2)
