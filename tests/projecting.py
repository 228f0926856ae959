"""A replica without its loop: tests append to logs and have it project, step by step."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from redis.asyncio import Redis
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.rights import ADMINISTRATOR, OWNER, PRODUCER, client_as, engine_as
from worker import Keys, Projection
from worker.blocked import BlockedStreams
from worker.cache import RowCache
from worker.isolation import Isolation
from worker.log import Log
from worker.outcome import Outcome
from worker.projector import Projector
from worker.store import Store
from worker.suspects import Suspects

PAGE_BYTES = 1_000_000
CACHE_BYTES = 1_000_000


@dataclass
class Replica:
    """One projector with its cache, on logs and a table that it may share with others."""

    redis: Redis
    keys: Keys
    engine: AsyncEngine
    projection: Projection = strategies
    page_bytes: int = PAGE_BYTES
    cache_bytes: int = CACHE_BYTES
    consumer: str = "replica"
    projector: Projector = field(init=False)
    isolation: Isolation = field(init=False)
    suspects: Suspects = field(init=False)
    blocked: BlockedStreams = field(init=False)
    store: Store = field(init=False)
    logs: Log = field(init=False)
    cache: RowCache = field(init=False)

    def __post_init__(self) -> None:
        self.keys = self.projection.keys(self.keys)
        self.logs = Log(
            self.redis,
            self.keys,
            self.projection.types,
            max_payload_bytes=1_000_000,
            page_bytes=self.page_bytes,
            streams=self.projection.streams,
        )
        self.store = Store(self.engine, self.projection)
        self.cache = RowCache(self.cache_bytes)
        self.blocked = BlockedStreams(self.engine, self.projection)
        self.suspects = Suspects(
            self.redis, self.keys, projection=self.projection.name, consumer=self.consumer
        )
        self.projector = Projector(self.projection, self.logs, self.store, self.blocked, self.cache)
        self.isolation = Isolation(
            self.projection, self.projector, self.suspects, self.store, self.blocked, self.logs
        )

    @property
    def producer(self) -> Redis:
        return client_as(self.redis, PRODUCER)

    @property
    def admin(self) -> Redis:
        return client_as(self.redis, ADMINISTRATOR)

    async def append(self, stream_id: str, event_type: str, data: Any = None, *, at: str = "*") -> str:
        """Append an entry, as a producer that writes no hints, and return its id."""
        raw = data if isinstance(data, bytes) else orjson.dumps({} if data is None else data)
        fields: Any = {"op": "", "type": event_type, "data": raw}
        event_id = await self.producer.xadd(self.keys.log(stream_id), fields, id=at)
        assert isinstance(event_id, bytes)
        return event_id.decode()

    async def append_many(self, stream_id: str, *types: str, first: int = 1) -> None:
        """Append an entry of each type, with the ids first-0, (first + 1)-0 and so on."""
        pipeline = self.producer.pipeline(transaction=False)
        for number, event_type in enumerate(types, first):
            fields: Any = {"op": "", "type": event_type, "data": "{}"}
            pipeline.xadd(self.keys.log(stream_id), fields, id=f"{number}-0")
        await pipeline.execute()

    async def project(self, *stream_ids: str) -> list[Outcome]:
        """One pass: what became of each stream."""
        results = await self.isolation.project_batch(stream_ids)
        await self.suspects.end(results)
        return [results[stream_id].outcome for stream_id in stream_ids]

    async def row(self, stream_id: str) -> dict[str, Any] | None:
        """All columns of a stream's row, as any reader sees them now."""
        table = self.projection.table.name
        statement = text(f"SELECT * FROM {table} WHERE stream_id = :stream")
        async with self.engine.connect() as connection:
            found = (await connection.execute(statement, {"stream": stream_id})).mappings().one_or_none()
        return dict(found) if found else None

    async def positions(self, *stream_ids: str) -> list[str | None]:
        """Where each row stands."""
        found = await self.store.positions(stream_ids)
        return [found.get(stream_id) for stream_id in stream_ids]


async def run(engine: AsyncEngine, *statements: str, role: str = OWNER) -> None:
    """Do what another application might do that owns the tables."""
    async with engine_as(engine, role).begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


@contextmanager
def statements(engine: AsyncEngine) -> Iterator[list[str]]:
    """The statements that are sent meanwhile, each by its first word."""
    sent: list[str] = []

    def note(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        sent.append(statement.split()[0])

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


def without(row: dict[str, Any] | None, columns: Collection[str]) -> dict[str, Any]:
    """A row's other columns."""
    assert row is not None
    return {name: value for name, value in row.items() if name not in columns}
