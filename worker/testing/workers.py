"""Workers of a world: one that runs in this process and can be killed, and replicas that go step by step."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from worker.app import Servers, connect, make_log, make_service
from worker.blocked import BlockedStreams
from worker.cache import RowCache
from worker.errors import ClaimRaceError
from worker.fault_points import Point, arm, disarm
from worker.leases import Leases
from worker.outcome import Outcome, StreamResult
from worker.projection import Projection
from worker.projector import Projector
from worker.settings import Settings
from worker.store import Store
from worker.testing.hints import wake

_STOP_SECONDS = 20
_CACHE_BYTES = 1_000_000

_consumer: ContextVar[str] = ContextVar("_consumer", default="")
"""In all tasks of a running worker: who that is."""


class _Killed(BaseException):
    """Ends a worker where it stands: no error that anybody would catch."""


class RunningWorker:
    """A worker in this process, with connections of its own."""

    def __init__(self, settings: Settings, projection: Projection) -> None:
        self.settings = settings
        self.projection = projection
        self._stop = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=settings.consumer_name)

    async def _run(self) -> None:
        _consumer.set(self.settings.consumer_name)
        async with connect(self.settings) as servers:
            await make_service(self.settings, servers, self.projection, self._stop).run()

    async def stop(self, servers: Servers) -> None:
        """Have it finish what is in hand and hand over. What it died of is raised."""
        self._stop.set()
        await wake(servers.redis, make_log(self.settings, servers.redis, self.projection).keys)
        async with asyncio.timeout(_STOP_SECONDS):
            await self.task

    async def cancel(self) -> None:
        """End it at once, if it has not ended."""
        self.task.cancel()
        await asyncio.wait([self.task])

    @contextmanager
    def dying_at(self, point: Point) -> Iterator[None]:
        """In this block it dies when it passes the point."""

        def die() -> None:
            if _consumer.get() == self.settings.consumer_name:
                raise _Killed

        arm(point, die)
        try:
            yield
        finally:
            disarm()

    async def died(self, servers: Servers) -> None:
        """Wait until it is dead, and all have noticed. What else it died of is raised."""
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await asyncio.shield(self.task)
        except TimeoutError:
            raise AssertionError(
                f"The worker was not killed within {_STOP_SECONDS} s: nothing made it pass the point."
            ) from None
        except BaseExceptionGroup as group:
            if rest := group.split(_Killed)[1]:
                raise rest from None
        except _Killed:
            pass
        # The others need not wait until its lease has run out.
        keys = make_log(self.settings, servers.redis, self.projection).keys
        await Leases(
            servers.redis, keys, projection=self.projection.name, consumer=self.settings.consumer_name
        ).leave()


class StepReplica:
    """A replica without a loop: it projects when it is told to, and keeps rows in its cache in between."""

    def __init__(self, settings: Settings, servers: Servers, projection: Projection) -> None:
        self.logs = make_log(settings, servers.redis, projection)
        store, blocked = Store(servers.engine, projection), BlockedStreams(servers.engine, projection)
        self._parts = (projection, self.logs, store, blocked)
        self.restart()

    def restart(self) -> None:
        """Forget what it knew."""
        self._projector = Projector(*self._parts, RowCache(_CACHE_BYTES))

    async def project(
        self, stream_ids: Sequence[str], *, one_event: bool = False
    ) -> Mapping[str, StreamResult]:
        """One pass: what became of each stream."""
        try:
            return await self._projector.project_batch(stream_ids, one_event=one_event)
        except ClaimRaceError:  # The batch is to be taken again, as if each of its comparisons were lost.
            return dict.fromkeys(stream_ids, StreamResult(Outcome.LOST))
