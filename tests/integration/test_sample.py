"""The continuous sample: a worker that verifies rows beside its work tells of those that have drifted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection

import pytest
import structlog
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.projecting import run
from tests.servers import RunningServers
from tests.serving import Serving, serving
from tests.verifying import STREAMS, VerifyingReplica
from tests.waiting import wait_until
from worker import Keys
from worker.finding import Finding
from worker.store import Store
from worker.verify import Verifier


@pytest.fixture
async def world(client: Redis, keys: Keys, engine: AsyncEngine) -> VerifyingReplica:
    """Three conversations, projected."""
    world = VerifyingReplica(client, keys, engine)
    await world.converse()
    return world


@pytest.fixture
async def running(
    servers: RunningServers, database_url: str, keys: Keys, world: VerifyingReplica
) -> AsyncIterator[Serving]:
    """A service that verifies fifty rows a second."""
    async with serving(servers.redis_url, database_url, keys, verify_per_minute=3000) as running:
        yield running


def counts(running: Serving) -> tuple[int, int]:
    """How many rows were verified, and had drifted."""
    sample = running.service._sample
    return sample.rows_verified, sample.rows_drifted


async def verified(running: Serving, more: int) -> None:
    """Wait until so many more rows have been verified."""
    enough = counts(running)[0] + more
    await wait_until(lambda: counts(running)[0] >= enough, "rows to be verified")


async def test_rows_that_are_right_are_counted_and_nothing_is_told(running: Serving) -> None:
    with structlog.testing.capture_logs() as said:
        await verified(running, 6)

        async def is_reported() -> bool:
            report = await running.report()
            return report is not None and report.rows_verified >= 6 and report.rows_drifted == 0

        await wait_until(is_reported, "the replica to tell how many")
    assert not [line for line in said if line["event"] == "row_drifted"]


async def test_a_row_that_drifted_is_told_once_by_its_columns(
    running: Serving, world: VerifyingReplica
) -> None:
    with structlog.testing.capture_logs() as said:
        await world.damage(
            "UPDATE stream_projections SET name = 'a secret', model_id = 'y' WHERE stream_id = 'b'"
        )
        await wait_until(lambda: any(line["event"] == "row_drifted" for line in said), "the row to be told")
        await verified(running, 9)
        assert counts(running)[1] == 1
    [told] = [line for line in said if line["event"] == "row_drifted"]
    assert (told["log_level"], told["stream"], sorted(told["columns"])) == (
        "error",
        "b",
        ["model_id", "name"],
    )
    assert "x" not in str(told.values())


async def test_a_table_that_is_away_stops_nothing(
    running: Serving, world: VerifyingReplica, engine: AsyncEngine
) -> None:
    await run(engine, "ALTER TABLE strategy_claims RENAME TO elsewhere")

    async def is_told() -> bool:
        report = await running.report()
        return report is not None and any("verifying" in trouble for trouble in report.troubles)

    await wait_until(is_told, "the trouble to be told")
    await run(engine, "ALTER TABLE elsewhere RENAME TO strategy_claims")
    await verified(running, 1)


async def test_a_stop_does_not_wait_for_a_second_look(
    running: Serving, world: VerifyingReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking_again = asyncio.Event()
    confirm = Verifier.confirm

    def noticed(verifier: Verifier, stream_ids: Collection[str]) -> AsyncGenerator[Finding, None]:
        if stream_ids:
            looking_again.set()
        return confirm(verifier, stream_ids)

    monkeypatch.setattr(Verifier, "confirm", noticed)
    await world.admin.delete(world.keys.log("b"))  # After more than a sweep's period, an hour, it is gone.
    await wait_until(looking_again.is_set, "a row to seem wrong")
    async with asyncio.timeout(10):
        await running.stop()


async def test_chance_chooses_among_all_rows_and_few_are_looked_at(engine: AsyncEngine) -> None:
    store = Store(engine, VerifyingReplica.projection)
    assert await store.random_streams(3) == []
    await run(
        engine,
        """INSERT INTO stream_projections (stream_id, last_event_id, name)
           SELECT n, '1-0', repeat('x', 1000) FROM generate_series(1, 5000) AS n""",
        "INSERT INTO stream_projections (stream_id) SELECT 'new' || n FROM generate_series(1, 50) AS n",
    )
    chosen = {stream_id for _ in range(40) for stream_id in await store.random_streams(5)}
    assert 50 < len(chosen) <= 200
    assert chosen < {str(n) for n in range(1, 5001)}
    assert len({int(stream_id) // 500 for stream_id in chosen}) > 5, "from all over the table"
    assert len(await store.random_streams(5000)) == 5000


async def test_of_a_small_table_every_row_may_be_chosen(world: VerifyingReplica) -> None:
    assert sorted(await world.store.random_streams(10)) == list(STREAMS)
