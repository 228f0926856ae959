"""Reading one's own writes: wait until an event that was emitted is in its row."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import NamedTuple

from redis.asyncio import Redis
from redis.asyncio.connection import ConnectionPool
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.application import check_stream_id
from worker.awaited import AwaitedEvent
from worker.cluster_client import AnyRedis, as_used
from worker.errors import DeclarationError, StreamLeftOutError
from worker.events import EventId
from worker.keys import Keys
from worker.loading import load_projections
from worker.projection import Projection
from worker.watcher import Watcher

_DEFAULT_KEYS = Keys()
_END_SECONDS = 0.5
"""For how long the last waiter sees to it that its watcher ends; a frozen server may hold that up."""


class _Scope(NamedTuple):
    """What waiters must have in common to share a watcher."""

    loop: asyncio.AbstractEventLoop
    engine: Engine
    pool: ConnectionPool | None
    projection: Projection
    keys: Keys


class _Watch(NamedTuple):
    """A watcher and its task."""

    watcher: Watcher
    task: asyncio.Task[None]


# Watchers that have waiters, and no others.
_watches: dict[_Scope, _Watch] = {}


async def wait_until_projected(
    engine: AsyncEngine,
    stream_id: str,
    event_id: str | EventId,
    timeout: float,
    *,
    projection: Projection | None = None,
    redis: AnyRedis | None = None,
    keys: Keys = _DEFAULT_KEYS,
) -> None:
    """Return once the row of ``stream_id`` shows the event ``event_id``, which is what `emit` returned.

    That is, once a reader who uses ``engine`` finds the row's position at or beyond the event. ``timeout`` is
    in seconds. ``projection`` may be left out if the module that WORKER_PROJECTIONS names declares only one.

    With ``redis``, best the client that emitted, workers tell when a row has moved, and an event of a type
    that is not projected is not waited for: it returns once the last projected event before it is in the row,
    and so for an event that was deleted from its log. Without, the row is looked at every now and then, and
    such an event is waited for until some later one is projected.

    Raises StreamBlockedError where a dead letter stands in the way, StreamDivergedError where the log does
    not hold the row's position any more (only with ``redis``), StreamLeftOutError where the projection never
    takes such a stream, and ProjectionTimeoutError, which says where the row stands: all of them are a
    NotProjectedError. Servers that are away are waited for until then.
    DeclarationError says that ``projection`` is missing, ValueError that nothing can have such an id.

    Call it as often as you like at the same time: all waits on the same engine, client and projection share
    one subscription, and borrow one connection at a time of each pool, until the last of them ends. It takes
    the right to read the projection's table and dead_letters, and in Redis those to SUBSCRIBE to the channel,
    and to XINFO, XRANGE and XREVRANGE the logs within a script.
    """
    if isinstance(event_id, str):
        event_id = EventId.parse(event_id)
    check_stream_id(stream_id)  # Nobody else's wait is to suffer from what PostgreSQL does not take.
    projection = projection or _declared_projection()
    if why := projection.left_out(stream_id):
        raise StreamLeftOutError(why, stream_id, str(event_id), None)
    keys = projection.keys(keys)
    used: Redis | None = None
    if redis is not None:
        used, keys = as_used(redis, keys)
    pool = used.connection_pool if used is not None else None
    scope = _Scope(asyncio.get_running_loop(), engine.sync_engine, pool, projection, keys)
    watch = _watches.get(scope)
    if watch is None or watch.task.done():
        watch = _start(scope, engine, used)
    awaited = AwaitedEvent(projection.name, stream_id, event_id)
    watch.watcher.add(awaited)
    try:
        await asyncio.wait({awaited.answer}, timeout=timeout)
    finally:
        if watch.watcher.remove(awaited):
            await _end(scope, watch)
    if not awaited.answer.done():
        raise awaited.timed_out(timeout, watch.watcher.troubles)
    if isinstance(answer := awaited.answer.result(), BaseException):
        raise answer


def _start(scope: _Scope, engine: AsyncEngine, redis: Redis | None) -> _Watch:
    for other in list(_watches):  # Loops in other threads add theirs.
        if other.loop.is_closed():  # ... without ending what ran in it.
            _watches.pop(other, None)
    watcher = Watcher(engine, redis, scope.projection, scope.keys)
    watch = _watches[scope] = _Watch(watcher, asyncio.create_task(watcher.run()))
    return watch


async def _end(scope: _Scope, watch: _Watch) -> None:
    """End a watcher that nobody needs. Who comes meanwhile starts another."""
    if _watches.get(scope) is watch:
        del _watches[scope]
    watch.task.cancel()
    await asyncio.wait({watch.task}, timeout=_END_SECONDS)


@cache
def _declared_projection() -> Projection:
    """The only projection that WORKER_PROJECTIONS declares; the environment is read once."""
    from worker.settings import load_settings  # Producers, who import this package too, need no settings.

    module = load_settings().projections
    projections = load_projections(module)
    if len(projections) > 1:
        names = ", ".join(projection.name for projection in projections)
        raise DeclarationError(
            f"Module {module}, as WORKER_PROJECTIONS says, declares several projections ({names}): give "
            "wait_until_projected the one that you mean as projection=."
        )
    return projections[0]
