"""Replicas that a test halts between any two of their statements, to put transactions into every order.

`interleave` lets several replicas work at once and decides where each of them stands still meanwhile. Nothing
is mocked: a replica is halted by its own engine, before a statement or a commit is sent.
"""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import AdaptedConnection
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.database import make_engine, parse_database_url
from worker.waiting import heed_cancellation

FINISH_SECONDS = 10
LOOK_SECONDS = 0.005
"""How often to ask the server whether somebody waits for a lock."""


class Standing(Enum):
    """How a replica stands that does not get on by itself."""

    HALTED = auto()
    """Before the statement that the test chose."""
    BLOCKED = auto()
    """It waits for a lock that another transaction holds."""
    FINISHED = auto()


class HaltingReplica:
    """An engine of its own, which counts its statements and commits and halts before a chosen one.

    ``action`` is what it does when it is started, once each time.
    """

    def __init__(self, name: str, database_url: str, *, connections: int = 1) -> None:
        self.name = name
        url = parse_database_url(database_url)
        self.engine = make_engine(url, pool_size=connections, application_name=name)
        self.boundaries = 0
        self._halt_at: int | None = None
        self.halted = asyncio.Event()
        self._go_on = asyncio.Event()
        self._task: asyncio.Task[object] | None = None
        event.listen(self.engine.sync_engine, "before_cursor_execute", self._before_statement)
        event.listen(self.engine.sync_engine, "commit", self._before_commit)

    def _before_statement(self, connection: Connection, *_: Any) -> None:
        self._before_commit(connection)

    def _before_commit(self, connection: Connection) -> None:
        adapted = connection.connection.dbapi_connection
        assert isinstance(adapted, AdaptedConnection)
        adapted.run_async(self._pass_boundary)

    async def _pass_boundary(self, _: object) -> None:
        heed_cancellation()  # else one that was closed before it got here would be halted for ever
        here, self.boundaries = self.boundaries, self.boundaries + 1
        if here == self._halt_at:
            self.halted.set()
            await self._go_on.wait()
            self.halted.clear()

    def start(self, action: Callable[[], Awaitable[object]], halt_at: int | None = None) -> None:
        """Begin; boundary 0 is before the first statement."""
        self.boundaries = 0
        self._halt_at = halt_at
        self._go_on = asyncio.Event()

        async def act() -> object:
            return await action()

        self._task = asyncio.create_task(act(), name=self.name)

    def release(self) -> None:
        """Go on, and halt no more."""
        self._halt_at = None
        self._go_on.set()

    @property
    def finished(self) -> bool:
        return self._task is not None and self._task.done()

    async def finish(self) -> None:
        """Wait for the end of the action; what it raises is raised here."""
        assert self._task is not None
        async with asyncio.timeout(FINISH_SECONDS):
            await self._task

    async def stand(self, observer: AsyncEngine) -> Standing:
        """Wait until it gets on no further, and say why."""
        assert self._task is not None
        halted = asyncio.create_task(self.halted.wait())
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                while True:
                    await asyncio.wait(
                        [self._task, halted], timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED
                    )
                    if self._task.done():
                        return Standing.FINISHED
                    if self.halted.is_set():
                        return Standing.HALTED
                    if await _waits_for_lock(observer, self.name):
                        return Standing.BLOCKED
        finally:
            halted.cancel()

    async def close(self) -> None:
        """Cancel what is still under way, wherever it stands, and drop all connections."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.engine.dispose()


async def _waits_for_lock(observer: AsyncEngine, name: str) -> bool:
    sql = text("""
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = :name
          AND cardinality(pg_blocking_pids(pid)) > 0""")
    async with observer.connect() as connection:
        return bool((await connection.execute(sql, {"name": name})).scalar())


@dataclass(frozen=True, slots=True)
class Part:
    """What one replica does, and before which of its statements it is halted; None: before none."""

    replica: HaltingReplica
    action: Callable[[], Awaitable[object]]
    halt_at: int | None = None


async def interleave(
    parts: Sequence[Part], observer: AsyncEngine, observe: Callable[[], Awaitable[None]]
) -> list[Standing]:
    """Start the parts one by one, each until it gets on no further; then release them in the same order.

    ``observe`` is called whenever all of them stand still. Returns how each part stood before the release.
    """
    standings = []
    for part in parts:
        part.replica.start(part.action, part.halt_at)
        standings.append(await part.replica.stand(observer))
        await observe()
    for part, standing in zip(parts, standings, strict=True):
        part.replica.release()
        if standing is not Standing.FINISHED:
            await part.replica.stand(observer)
            await observe()
    for part in parts:
        await part.replica.finish()
    return standings
