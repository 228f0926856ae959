"""Real servers with a worker, for one test: events go into logs, rows come out, and faults happen on request.

Nothing here waits for a time to pass: `World.caught_up` returns when the rows stand where the logs end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.app import Servers, make_log
from worker.comparison import compare_table
from worker.emit import emit
from worker.fault_points import Point
from worker.keys import Keys
from worker.letters import DeadLetter
from worker.log_scan import LogScan
from worker.log_servers import log_servers
from worker.projected import wait_until_projected
from worker.projection import Projection
from worker.settings import Settings
from worker.snapshot import Snapshots
from worker.store import Store
from worker.testing.drafts import raw_payload
from worker.testing.faults import HintFaults, Zombie
from worker.testing.hints import undone, wake
from worker.testing.keys_in_redis import delete_all
from worker.testing.workers import RunningWorker, StepReplica
from worker.waiting import heed_cancellation

Value = TypeVar("Value")

_LOOK_SECONDS = 0.01
_ABANDONED_AT_ONCE = 1_000


class World:
    """A projection with its logs and rows, and a worker that projects them.

    ``redis``, ``engine`` and ``keys`` are what an application would use; ``keys`` goes to `worker.emit` and
    the like.
    """

    def __init__(self, settings: Settings, servers: Servers, projection: Projection) -> None:
        self.projection = projection
        self.redis: Redis = servers.redis
        self.engine: AsyncEngine = servers.engine
        self._settings = settings
        self._servers = servers
        self._logs = make_log(settings, servers.redis, projection)
        self._hints = HintFaults(self.redis, self.keys)
        self._worker: RunningWorker | None = None
        self._names = count(1)

    @property
    def keys(self) -> Keys:
        """The names of all keys of this world."""
        return self._logs.keys

    # Events and rows.

    async def emit(self, stream_id: str, event_type: str, /, **data: Any) -> str:
        """Append an event as `worker.emit` does, with its hint, and return its id."""
        faulty = self._hints.faulty
        hinted = () if faulty else None
        event_id = await emit(
            self.redis, stream_id, "", event_type, data, projected_types=hinted, keys=self.keys
        )
        if faulty:
            await self._hints.tell(stream_id, event_type)
        return event_id

    async def append(self, stream_id: str, event_type: str, payload: Mapping[str, Any] | bytes) -> str:
        """Append an entry whose data may be no JSON, with its hint, and return its id."""
        log, data = self.keys.log(stream_id), raw_payload(event_type, payload)
        entry = ("XADD", log, "*", "op", "", "type", event_type, "data", data)
        [event_id] = await log_servers(self.redis).ask([(log, entry)])
        if isinstance(event_id, RedisError):
            raise event_id
        assert isinstance(event_id, bytes)
        await self._hints.tell(stream_id, event_type)
        return event_id.decode()

    async def caught_up(self, *stream_ids: str, seconds: float = 20) -> None:
        """Return when the rows of these streams, or of all, show the last event, and no hint is left to do.

        Raises StreamBlockedError for a stream that a dead letter stops, StreamDivergedError, and
        ProjectionTimeoutError or AssertionError when that takes longer than ``seconds``; and what the worker
        died of.
        """
        await self._unless_dead(self._caught_up(stream_ids, seconds))

    async def row(self, stream_id: str) -> dict[str, Any] | None:
        """All columns of a stream's row, as any reader sees them now; None where there is none."""
        table = self.projection.table
        async with self.engine.connect() as connection:
            found = await connection.execute(select(table).where(table.c.stream_id == stream_id))
            row = found.mappings().one_or_none()
        return None if row is None else dict(row)

    async def rows(self, name: str, stream_id: str) -> dict[str | int, dict[str, Any]]:
        """All child rows of a stream, by key, without stream id and key."""
        child = self.projection.children[name]
        table = child.table
        columns = [column.key for column in table.columns if column.key not in ("stream_id", child.key)]
        async with self.engine.connect() as connection:
            found = await connection.execute(select(table).where(table.c.stream_id == stream_id))
            return {row[child.key]: {c: row[c] for c in columns} for row in found.mappings()}

    async def assert_rows_are_folds(self) -> None:
        """Raise AssertionError unless every row is the fold of its log. Only while nothing is projected."""
        __tracebackhide__ = True
        found = await compare_table(self._logs, self.engine, self.projection)
        differing = await Snapshots(self.engine, self.projection).as_stored(found.differences)
        wrong = [
            f"stream {one.stream_id!r}, {one.column}: expected {one.expected!r}, found {one.stored!r}"
            for one in differing
        ]
        wrong += [f"stream {stream_id!r} has no row" for stream_id in found.missing]
        wrong += [f"stream {stream_id!r} has a row and no log" for stream_id in found.extra]
        if wrong:
            raise AssertionError("\n  ".join(["Rows are not the fold of their logs:", *wrong]))

    async def empty(self) -> None:
        """Delete all logs and rows; best while no worker runs."""
        await delete_all(self.redis, self.keys.prefix)
        tables = [child.table for child in self.projection.children.values()]
        letters = delete(DeadLetter).where(DeadLetter.projection == self.projection.name)
        async with self.engine.begin() as connection:
            for table in (*tables, self.projection.table):
                await connection.execute(delete(table))
            await connection.execute(letters)
        store = Store(self.engine, self.projection)
        while abandoned := await store.abandoned(_ABANDONED_AT_ONCE):
            await store.withdraw(abandoned)

    # Workers, and what may happen to them.

    async def start(self) -> None:
        """Start the worker, unless it runs; it has joined its group and looked at all logs then."""
        if self._worker is None:
            name = f"worker-{next(self._names)}"
            settings = self._settings.model_copy(update={"consumer_name": name})
            await wake(self.redis, self.keys)
            self._worker = RunningWorker(settings, self.projection)
            await self._unless_dead(self._joined())

    async def stop(self) -> None:
        """Stop the worker as SIGTERM does. What it died of is raised."""
        if worker := self._worker:
            self._worker = None
            try:
                await worker.stop(self._servers)
            finally:
                await worker.cancel()

    @asynccontextmanager
    async def killed(self, at: Point = Point.PROJECTED) -> AsyncIterator[None]:
        """The worker dies when what is done in this block takes it past a point; another takes its place.

        By default that is after the commit, before hints are acknowledged: they are delivered again. Dying
        means that nothing more is done, sent or handed over. Raises AssertionError if nothing makes the
        worker pass the point.
        """
        worker = self._worker
        if worker is None:
            raise RuntimeError("No worker runs that could be killed: call start() first.")
        with worker.dying_at(at):
            yield
            await worker.died(self._servers)
        self._worker = None
        await self.start()

    def zombie(self, stream_id: str) -> AbstractAsyncContextManager[Zombie]:
        """A second replica knows the row as it is now, and writes only at the end of this block, too late."""
        return Zombie(self.replica(), stream_id).frozen()

    def duplicated_hints(self, times: int = 2) -> AbstractAsyncContextManager[None]:
        """In this block each hint is written so often."""
        return self._hints.duplicated(times)

    def reordered_hints(self) -> AbstractAsyncContextManager[None]:
        """Hints of what is emitted in this block are held back to its end, and come in the reverse order."""
        return self._hints.reordered()

    def replica(self) -> StepReplica:
        """A further replica, without a loop, that projects when it is told to."""
        return StepReplica(self._settings, self._servers, self.projection)

    async def _caught_up(self, stream_ids: tuple[str, ...], seconds: float) -> None:
        scan = LogScan(self.redis, self.keys, self.projection.streams)
        streams = stream_ids or sorted({s async for some in scan.all_streams() for s in some})
        for stream_id, last in zip(streams, await scan.last_ids(streams), strict=True):
            if last is not None:
                await wait_until_projected(
                    self.engine,
                    stream_id,
                    last,
                    seconds,
                    projection=self.projection,
                    redis=self.redis,
                    keys=self.keys,
                )
        await self._until_done(seconds)

    async def _until_done(self, seconds: float) -> None:
        """Wait until no hint is left to do."""
        left: list[str] = []
        try:
            async with asyncio.timeout(seconds):
                while True:
                    left = await undone(self.redis, self.keys, self.projection.name)
                    if not left:
                        return
                    heed_cancellation()
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            raise AssertionError(f"After {seconds:g} s hints are left to do: {'; '.join(left)}") from None

    async def _joined(self) -> None:
        """Wait until the group is there and the first sweep is over: then hints alone tell of news."""
        report = self.keys.sweep_report(self.projection.name)
        feed = self.keys.feed(self.keys.partitions - 1)
        while True:
            if await self.redis.exists(report, feed) == len({report, feed}):
                return
            heed_cancellation()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _unless_dead(self, action: Coroutine[Any, Any, Value]) -> Value:
        """Do something that needs the worker; if that ends first, raise what it died of."""
        acting = asyncio.create_task(action)
        tasks: set[asyncio.Task[Any]] = {acting}
        if self._worker:
            tasks.add(self._worker.task)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not acting.done() and self._worker:
                await self._worker.task
                raise RuntimeError("The worker has ended by itself.")
            return await acting
        finally:
            acting.cancel()
            await asyncio.wait([acting])
