"""Claims of different streams on the same strategies, in transactions that overlap in every way.

Each scenario brings two or three replicas into conflict. One of them is halted before each of its statements
in turn, and before its commit; the others then run until they finish or wait for a lock. Whatever the order,
nobody runs into a deadlock or a unique violation, no two rows hold one strategy at any committed moment, and
at the end the table is that of a single reader.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.conflicts import SCENARIOS, Scenario, claim
from tests.conversations import Entry, Universe
from tests.integration.test_law import differences
from tests.interleaving import HaltingReplica, Part, Standing, interleave
from tests.reference.model import single_reader
from tests.servers import RunningServers
from tests.tables import empty_tables, read_table
from worker.cache import RowCache
from worker.database import make_engine, parse_database_url
from worker.errors import ClaimRaceError
from worker.events import EventId
from worker.keys import Keys
from worker.log import Log
from worker.projector import Outcome, Projector
from worker.redis_client import make_client
from worker.store import Store

FEWEST_BOUNDARIES = 10
"""A write that claims something has at least so many statements; else nothing would be tested here."""


class Laboratory:
    """Servers, three replicas that can be halted, and one connection that looks on."""

    def __init__(self, redis: Redis, database_url: str, prefix: str) -> None:
        url = parse_database_url(database_url)
        self._redis = redis
        self._keys = Keys(prefix)
        self.observer = make_engine(url, pool_size=1, application_name="observer")
        self._earlier = make_engine(url, pool_size=1, application_name="earlier")
        self.replicas = [HaltingReplica(f"replica-{number}", database_url) for number in range(3)]
        self.races = 0
        self._projectors: list[Projector] = []

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.close()
        await self._earlier.dispose()
        await self.observer.dispose()

    def _projector(self, engine: AsyncEngine) -> Projector:
        log = Log(self._redis, self._keys, strategies.types, max_payload_bytes=2**20, page_bytes=2**20)
        return Projector(strategies, log, Store(engine, strategies), RowCache(2**20))

    async def set_up(self, scenario: Scenario) -> None:
        """Make the scenario's past."""
        await empty_tables(self.observer)
        for stream_id in {*scenario.projected, *scenario.news}:
            await self._redis.delete(self._keys.log(stream_id))
        await self._append(scenario.projected)
        await self._catch_up(self._projector(self._earlier), list(scenario.projected))
        for stream_id, undone in scenario.undone.items():
            ids = [event_id for event_id, _ in scenario.projected[stream_id][-undone:]]
            await self._redis.xdel(self._keys.log(stream_id), *ids)
        async with self.observer.begin() as connection:
            for stream_id in (*scenario.rows_deleted, *scenario.deleted):
                await connection.execute(DELETE_ROW, {"stream": stream_id})
        for stream_id, wdk_strategy_id in scenario.foreign.items():
            await insert_holder(self.observer, stream_id, wdk_strategy_id)
        for stream_id in scenario.deleted:
            await self._redis.delete(self._keys.log(stream_id))
        await self._append(scenario.news)
        self._projectors = [self._projector(replica.engine) for replica in self.replicas]

    async def _append(self, logs: Universe) -> None:
        for stream_id, entries in logs.items():
            for event_id, fields in entries:
                await self._redis.xadd(self._keys.log(stream_id), fields, id=event_id)  # type: ignore[arg-type]

    async def run(
        self, scenario: Scenario, order: Sequence[int], halts: Sequence[int | None]
    ) -> list[Standing]:
        """Play a scenario: start the replicas in this order, each halted where told, and check everything."""
        await self.set_up(scenario)
        parts = [
            Part(self.replicas[number], self.action(number, scenario.batches[number]), halt_at)
            for number, halt_at in zip(order, halts, strict=True)
        ]
        standings = await interleave(parts, self.observer, partial(self.observe, scenario))
        await self.conclude(scenario)
        return standings

    def action(self, number: int, batch: str) -> Callable[[], Awaitable[object]]:
        """One pass of a replica over a batch; "-b" withdraws what is left of the deleted conversation b.

        To be told that the claims have changed meanwhile is no error: the pass is made again.
        """

        async def act() -> None:
            while True:
                try:
                    if batch.startswith("-"):
                        await Store(self.replicas[number].engine, strategies).withdraw(list(batch[1:]))
                    else:
                        await self._projectors[number].project_batch(list(batch))
                except ClaimRaceError:
                    self.races += 1
                else:
                    return

        return act

    async def observe(self, scenario: Scenario) -> None:
        """Look at what is committed at this moment."""
        async with self.observer.connect() as connection:
            doubles = (await connection.execute(DOUBLES)).all()
        assert not doubles, f"strategies held by two rows: {doubles}"
        if scenario.only_grows:
            table = await read_table(self.observer)
            reached = {s: _up_to(log, table[s]) for s, log in scenario.logs.items() if s in table}
            assert differences(table, single_reader(reached)) == [], "at a committed moment"

    async def conclude(self, scenario: Scenario) -> None:
        """Project what is left, by every replica with what it knows, and compare."""
        for projector in self._projectors[: len(scenario.batches)]:
            await self._catch_up(projector, list(scenario.logs))
        assert differences(await read_table(self.observer), single_reader(scenario.logs)) == []
        async with self.observer.connect() as connection:
            without_history = (await connection.execute(WITHOUT_POSITION)).scalars().all()
        assert not without_history, "whoever claims a strategy takes it from holders without history, too"

    async def _catch_up(self, projector: Projector, streams: list[str]) -> None:
        for _ in range(10):
            if not streams:
                return
            results = await projector.project_batch(streams)
            streams = [s for s, r in results.items() if r.outcome is Outcome.LOST]
        raise AssertionError(f"{streams} never get to the end")


DELETE_ROW = text("DELETE FROM stream_projections WHERE stream_id = :stream")
INSERT_HOLDER = text("""
    INSERT INTO stream_projections (stream_id, wdk_strategy_id, is_saved) VALUES (:stream, :wdk, true)""")
WITHOUT_POSITION = text("""
    SELECT wdk_strategy_id FROM stream_projections
    WHERE last_event_id IS NULL AND wdk_strategy_id IS NOT NULL""")
DOUBLES = text("""
    SELECT wdk_strategy_id, array_agg(stream_id) FROM stream_projections
    WHERE wdk_strategy_id IS NOT NULL GROUP BY wdk_strategy_id HAVING count(*) > 1""")


async def insert_holder(engine: AsyncEngine, stream_id: str, wdk_strategy_id: int) -> None:
    """Another application makes a row; where the strategy is taken, it fails and lets it be."""
    with suppress(IntegrityError):
        async with engine.begin() as connection:
            await connection.execute(INSERT_HOLDER, {"stream": stream_id, "wdk": wdk_strategy_id})


def _up_to(log: Sequence[Entry], row: Mapping[str, Any]) -> list[Entry]:
    position = EventId.parse(row["last_event_id"])
    return [entry for entry in log if EventId.parse(entry[0]) <= position]


@pytest.fixture
async def laboratory(
    servers: RunningServers, database_url: str, keys_prefix: str
) -> AsyncIterator[Laboratory]:
    redis = make_client(servers.redis_url)
    laboratory = Laboratory(redis, database_url, keys_prefix)
    yield laboratory
    await laboratory.close()
    await redis.aclose()


@pytest.mark.parametrize("name", SCENARIOS)
async def test_one_transaction_halted_anywhere(laboratory: Laboratory, name: str) -> None:
    """Each replica in turn is the one that is halted, with the others running into what it holds."""
    scenario = SCENARIOS[name]
    replicas = range(len(scenario.batches))
    blocked = False
    for first in replicas:
        order = [first, *(other for other in replicas if other != first)]
        for boundary in count():
            standings = await laboratory.run(scenario, order, [boundary] + [None] * (len(order) - 1))
            blocked |= Standing.BLOCKED in standings
            if standings[0] is Standing.FINISHED:
                break
        assert boundary >= FEWEST_BOUNDARIES
    assert blocked, "the transactions never came into conflict"


@pytest.mark.parametrize(
    "name",
    [
        "old streams claim one strategy",
        "batches overlap, some of it new",
        "an undo withdraws a claim while others claim",
    ],
)
async def test_two_transactions_halted_anywhere(laboratory: Laboratory, name: str) -> None:
    """For every halt of the first, the second is halted wherever it gets to before it has to wait."""
    scenario = SCENARIOS[name]
    pairs = 0
    for first_boundary in count():
        for second_boundary in count():
            standings = await laboratory.run(scenario, [0, 1], [first_boundary, second_boundary])
            if standings[1] is not Standing.HALTED:
                break
            pairs += 1
        if standings[0] is Standing.FINISHED:
            break
    assert first_boundary >= FEWEST_BOUNDARIES
    assert pairs >= 2 * FEWEST_BOUNDARIES


async def test_a_holder_that_another_application_makes_meanwhile_is_cleared(laboratory: Laboratory) -> None:
    """It takes none of our locks. At a bad moment it makes our write fail, which is then repeated."""
    scenario = Scenario(("a",), news={"a": [claim(10, 7, saved=True)]})
    ours, theirs = laboratory.replicas[:2]
    failures = 0

    async def project() -> None:
        nonlocal failures
        try:
            await laboratory.action(0, "a")()
        except IntegrityError:
            failures += 1

    for boundary in count():
        await laboratory.set_up(scenario)
        parts = [Part(ours, project, boundary), Part(theirs, partial(insert_holder, theirs.engine, "f", 7))]
        standings = await interleave(parts, laboratory.observer, partial(laboratory.observe, scenario))
        await laboratory.conclude(scenario)
        if standings[0] is Standing.FINISHED:
            break
    assert boundary >= FEWEST_BOUNDARIES
    assert failures, "no holder came at a bad moment"
