"""One watcher looks at rows and logs, and listens to workers, for all who wait on the same servers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from time import monotonic

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.awaited import AwaitedEvent
from worker.keys import Keys
from worker.moved import read_moved
from worker.projection import Projection
from worker.trouble import SERVER_ERRORS, describe
from worker.waiting import heed_cancellation, wait_for
from worker.whereabouts import Logs, Rows

LONGEST_PAUSE_SECONDS = 1.0
"""Between looks at a row while workers are heard."""
LONGEST_DEAF_PAUSE_SECONDS = 0.25
"""... and while they are not."""
_GATHER_SECONDS = 0.005
"""After a look, so that the next one is for all who come or are woken meanwhile."""
_LISTEN_SECONDS = 5.0
_FIRST_RECONNECT_SECONDS = 0.05
_LONGEST_RECONNECT_SECONDS = 1.0
_REPLY_SECONDS = 5.0
"""For how long a server may think about an answer before it is asked anew."""


class Watcher:
    """Awaits events on behalf of many. ``troubles`` tells of each server what was wrong when asked last.

    Looks at rows, at logs and for messages are tasks of their own, so that no server keeps another from being
    asked. Each asks for all that is due at once, over one connection at a time.
    """

    def __init__(self, engine: AsyncEngine, redis: Redis | None, projection: Projection, keys: Keys) -> None:
        self.troubles: dict[str, str] = {}
        self._projection = projection
        self._redis = redis
        self._channel = keys.moved(projection.name)
        self._rows = Rows(engine, projection)
        self._logs = Logs(redis, keys, projection.types) if redis else None
        self._awaited: dict[str, set[AwaitedEvent]] = {}
        self._row_due = asyncio.Event()
        self._log_due = asyncio.Event()
        self._hears = False

    def add(self, awaited: AwaitedEvent) -> None:
        """Look after an event from now on."""
        self._awaited.setdefault(awaited.stream_id, set()).add(awaited)
        self._row_due.set()

    def remove(self, awaited: AwaitedEvent) -> bool:
        """Forget an event; whether it was the last one."""
        others = self._awaited[awaited.stream_id]
        others.discard(awaited)
        if not others:
            del self._awaited[awaited.stream_id]
        return not self._awaited

    async def run(self) -> None:
        """Watch until cancelled. An error that is no server's doing is everybody's answer, and ends it."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._look_at_rows())
                if self._redis is not None and self._logs is not None:
                    tasks.create_task(self._look_into_logs(self._logs))
                    tasks.create_task(self._listen(self._redis))
        except BaseExceptionGroup as group:
            self._answer_all(group.exceptions[0])
        finally:
            self._rows.close()
            self._answer_all(asyncio.CancelledError())

    def _answer_all(self, error: BaseException) -> None:
        for awaited in self._all():
            if not awaited.answer.done():
                awaited.answer.set_result(error)

    def _all(self) -> list[AwaitedEvent]:
        return [awaited for of_stream in self._awaited.values() for awaited in of_stream]

    async def _look_at_rows(self) -> None:
        while True:
            heed_cancellation()
            now = monotonic()
            longest = LONGEST_PAUSE_SECONDS if self._hears else LONGEST_DEAF_PAUSE_SECONDS
            open_ = [awaited for awaited in self._all() if not awaited.answer.done()]
            due = [awaited for awaited in open_ if awaited.row_due <= now]
            if not due:
                next_due = min((awaited.row_due for awaited in open_), default=now + longest)
                self._row_due.clear()
                await wait_for(self._row_due, next_due - now)
                continue
            for awaited in due:  # Before the look, so that what wakes them meanwhile leads to another.
                awaited.put_off_row(now, longest)
            try:
                async with asyncio.timeout(_REPLY_SECONDS):
                    found = await self._rows.look({awaited.stream_id for awaited in due})
            except SERVER_ERRORS as error:
                self.troubles["PostgreSQL"] = describe(error)
                continue
            self.troubles.pop("PostgreSQL", None)
            for awaited in due:
                awaited.meet_row(found[awaited.stream_id])
            self._log_due.set()
            await asyncio.sleep(_GATHER_SECONDS)

    async def _look_into_logs(self, logs: Logs) -> None:
        while True:
            heed_cancellation()
            now = monotonic()
            open_ = [awaited for awaited in self._all() if awaited.row_seen and not awaited.answer.done()]
            due = [awaited for awaited in open_ if awaited.log_due <= now]
            if not due:
                next_due = min((awaited.log_due for awaited in open_), default=now + LONGEST_PAUSE_SECONDS)
                self._log_due.clear()
                await wait_for(self._log_due, next_due - now)
                continue
            for awaited in due:
                awaited.put_off_log(now)
            asked = [awaited.question() for awaited in due]
            try:
                async with asyncio.timeout(_REPLY_SECONDS):
                    found = await logs.look(asked)
            except SERVER_ERRORS as error:
                self.troubles["Redis"] = describe(error)
                for awaited in due:
                    awaited.put_off_log(monotonic(), failed=True)
                continue
            self.troubles.pop("Redis", None)
            for awaited, question, log in zip(due, asked, found, strict=True):
                awaited.meet_log(question, log, monotonic())
            self._row_due.set()
            await asyncio.sleep(_GATHER_SECONDS)

    async def _listen(self, redis: Redis) -> None:
        """Hear workers, and get back in touch where that was lost; meanwhile rows are looked at oftener."""
        pause = _FIRST_RECONNECT_SECONDS
        while True:
            heed_cancellation()
            try:
                async with redis.pubsub() as subscription:
                    await subscription.subscribe(self._channel)
                    while True:
                        heed_cancellation()
                        await self._hear(subscription)
                        pause = _FIRST_RECONNECT_SECONDS
            except SERVER_ERRORS as error:
                self.troubles["Redis"] = describe(error)
            self._hears = False
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_RECONNECT_SECONDS)

    async def _hear(self, subscription: PubSub) -> None:
        """Wait for a message. One that says that we are subscribed wakes all: others may have been missed."""
        message = await subscription.get_message(timeout=_LISTEN_SECONDS)
        if message is None:
            return
        self._hears = True
        told = message["type"] == "message"
        self._wake(read_moved(message["data"]) if told else None)

    def _wake(self, stream_ids: Collection[str] | None) -> None:
        named = self._awaited if stream_ids is None else stream_ids
        woken = [awaited for stream_id in named for awaited in self._awaited.get(stream_id, ())]
        for awaited in woken:
            awaited.wake()
        if woken:
            self._row_due.set()
