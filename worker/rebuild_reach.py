"""All that the command `rebuild` works with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from worker.app import Servers, connect, make_log
from worker.courtesy import Courtesy
from worker.log import Log
from worker.migrate import check_schema
from worker.projection import Projection
from worker.rebuild import Rebuilder, make_rebuilder
from worker.redis_client import renew
from worker.retry import Perseverance
from worker.scope import Scope
from worker.settings import Settings
from worker.store import Store

_PAGE_BYTES = 2 * 1024 * 1024
_CONNECTIONS = 7
"""To PostgreSQL: chunks are worked on side by side."""


@dataclass(frozen=True, slots=True)
class RebuildOptions:
    """What is to be rebuilt and how; see the command.

    ``stream_ids`` are streams that were named; none stands for those in ``scope``. ``rate`` is in streams a
    second.
    """

    scope: Scope
    stream_ids: Sequence[str] = ()
    rate: float | None = None
    yields: bool = True
    restart: bool = False
    limit: int = 100
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Reach:
    """One projection on both servers, with what was asked for."""

    projection: Projection
    options: RebuildOptions
    worker: str
    stop: asyncio.Event
    servers: Servers
    logs: Log
    store: Store
    rebuilder: Rebuilder
    persevere: Perseverance
    courtesy: Courtesy


@asynccontextmanager
async def reach(
    settings: Settings, projection: Projection, options: RebuildOptions, stop: asyncio.Event
) -> AsyncIterator[Reach]:
    """Connect to both servers. Raises SchemaError, and errors of a server that cannot be reached at all.

    Once it works, servers that go away are waited for; not so operators, who are to mend what they are told.
    """
    async with connect(settings, _CONNECTIONS) as servers:
        await check_schema(servers.engine, settings.projections, [projection])
        persevere = Perseverance(
            stop,
            projection=projection.name,
            races=projection.races,
            await_operators=False,
            renew=partial(renew, servers.redis),
        )
        # In small pages: while a server answers with a large one, it answers nobody else. Yet large enough
        # for most chunks to be read at once.
        logs = make_log(settings, servers.redis, projection, page_bytes=_PAGE_BYTES)
        courtesy = Courtesy(
            servers.redis,
            settings.keys,
            projection.name,
            persevere,
            stop,
            yields=options.yields,
            streams_per_second=options.rate,
        )
        yield Reach(
            projection,
            options,
            settings.consumer_name,
            stop,
            servers,
            logs,
            Store(servers.engine, projection),
            make_rebuilder(projection, logs, servers.engine),
            persevere,
            courtesy,
        )


async def known_and_unknown(reached: Reach, stream_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of these streams that exist, and those that have neither a log nor a row."""
    rows = await reached.store.stamps(stream_ids)
    extents = await reached.logs.extents(dict.fromkeys(stream_ids))
    known = [s for s in stream_ids if s in rows or extents[s].exists]
    return known, [s for s in stream_ids if s not in set(known)]
