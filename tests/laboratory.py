"""Where conflicts over WDK strategies are played, and everything is checked at every step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.conflicts import Scenario
from tests.conversations import Entry, Universe
from tests.interleaving import HaltingReplica, Part, Standing, interleave
from tests.reference.model import single_reader
from tests.rights import ADMINISTRATOR, OWNER, PRODUCER, as_user, client_as
from tests.tables import differences, empty_tables, read_table
from worker import ClaimRaceError, EventId, Keys
from worker.blocked import BlockedStreams
from worker.cache import RowCache
from worker.database import make_engine, parse_database_url
from worker.log import Log
from worker.outcome import Outcome
from worker.projector import Projector
from worker.store import Store

DELETE_ROW = text("DELETE FROM stream_projections WHERE stream_id = :stream")
INSERT_HOLDER = text("""
    INSERT INTO stream_projections (stream_id, wdk_strategy_id, is_saved) VALUES (:stream, :wdk, true)""")
WITHOUT_POSITION = text("""
    SELECT wdk_strategy_id FROM stream_projections
    WHERE last_event_id IS NULL AND wdk_strategy_id IS NOT NULL""")
DOUBLES = text("""
    SELECT wdk_strategy_id, array_agg(stream_id) FROM stream_projections
    WHERE wdk_strategy_id IS NOT NULL GROUP BY wdk_strategy_id HAVING count(*) > 1""")


class Laboratory:
    """Servers, three replicas that can be halted, and one connection that looks on."""

    def __init__(self, redis: Redis, database_url: str, prefix: str) -> None:
        url = parse_database_url(database_url)
        owner = parse_database_url(as_user(database_url, OWNER))
        self._redis = redis
        self._producer, self._admin = client_as(redis, PRODUCER), client_as(redis, ADMINISTRATOR)
        self._keys = Keys(prefix)
        self.observer = make_engine(owner, pool_size=1, application_name="observer")
        self.stranger = make_engine(url, pool_size=1, application_name="stranger")
        self.replicas = [HaltingReplica(f"replica-{number}", database_url) for number in range(3)]
        self.races = 0
        self._projectors: list[Projector] = []

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.close()
        await self.stranger.dispose()
        await self.observer.dispose()

    def _projector(self, engine: AsyncEngine) -> Projector:
        log = Log(self._redis, self._keys, strategies.types, max_payload_bytes=2**20, page_bytes=2**20)
        blocked = BlockedStreams(engine, strategies)
        return Projector(strategies, log, Store(engine, strategies), blocked, RowCache(2**20))

    async def set_up(self, scenario: Scenario) -> None:
        """Make the scenario's past."""
        await empty_tables(self.observer)
        await self._admin.delete(*(self._keys.log(s) for s in {*scenario.projected, *scenario.news}))
        await self.append(scenario.projected)
        await self._catch_up(self._projector(self.stranger), list(scenario.projected))
        for stream_id, undone in scenario.undone.items():
            await self.take_back(stream_id, scenario.projected[stream_id][-undone:])
        for stream_id in (*scenario.rows_deleted, *scenario.deleted):
            await self.delete_row(stream_id)
        for stream_id, wdk_strategy_id in scenario.foreign.items():
            await insert_holder(self.observer, stream_id, wdk_strategy_id)
        for stream_id in scenario.deleted:
            await self._admin.delete(self._keys.log(stream_id))
        await self.append(scenario.news)
        self._projectors = [self._projector(replica.engine) for replica in self.replicas]

    async def append(self, logs: Universe) -> None:
        async with self._producer.pipeline(transaction=False) as pipeline:
            for stream_id, entries in logs.items():
                for event_id, fields in entries:
                    pipeline.xadd(self._keys.log(stream_id), fields, id=event_id)  # type: ignore[arg-type]
            await pipeline.execute()

    async def take_back(self, stream_id: str, entries: Sequence[Entry]) -> None:
        """Delete entries of a log, as an undo does."""
        await self._admin.xdel(self._keys.log(stream_id), *(event_id for event_id, _ in entries))

    async def delete_row(self, stream_id: str) -> None:
        async with self.observer.begin() as connection:
            await connection.execute(DELETE_ROW, {"stream": stream_id})

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


async def insert_holder(engine: AsyncEngine, stream_id: str, wdk_strategy_id: int) -> None:
    """Another application makes a row; where the strategy is taken, it fails and lets it be."""
    with suppress(IntegrityError):
        async with engine.begin() as connection:
            await connection.execute(INSERT_HOLDER, {"stream": stream_id, "wdk": wdk_strategy_id})


def _up_to(log: Sequence[Entry], row: Mapping[str, Any]) -> list[Entry]:
    position = EventId.parse(row["last_event_id"])
    return [entry for entry in log if EventId.parse(entry[0]) <= position]
