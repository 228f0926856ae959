"""`rebuild --prune`: removes rows whose log does not exist, with their claims."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial

from worker.errors import ScopeError
from worker.projection import Projection
from worker.rebuild_reach import Reach, RebuildOptions, reach
from worker.rebuild_screen import print_prunable, print_pruned
from worker.scope import find_streams, has_logs, projected_streams
from worker.settings import Settings
from worker.waiting import unless

_AT_ONCE = 100


async def find_prunable(
    settings: Settings, projection: Projection, options: RebuildOptions, stop: asyncio.Event
) -> list[str] | None:
    """List rows whose log does not exist, of all that were projected or of those in scope; None at a stop.

    Raises ScopeError where there is no log at all, unless losses are accepted: that is more likely the wrong
    Redis, or one that has lost its data, than the end of all conversations.
    """
    async with reach(settings, projection, options, stop) as reached:
        found = await unless(stop, _rows_without_log(reached))
    if found is None:
        return None
    gone, rows = found
    print_prunable(gone, rows, as_json=options.as_json)
    return gone


async def _rows_without_log(reached: Reach) -> tuple[list[str], int]:
    """The streams, and of how many rows in scope."""
    streams = await _rows_in_scope(reached)
    gone: list[str] = []
    for at in range(0, len(streams), _AT_ONCE):
        some = streams[at : at + _AT_ONCE]
        extents = await reached.logs.extents(dict.fromkeys(some))
        gone += [stream_id for stream_id in some if not extents[stream_id].exists]
    if gone and not reached.options.scope.accept_loss and not await has_logs(reached.logs):
        raise ScopeError(
            f"Redis holds no log at all, though there are {len(streams):,} rows: see whether it is the "
            "right one, and has its data. With --accept-loss the rows are removed all the same."
        )
    return gone, len(streams)


async def _rows_in_scope(reached: Reach) -> list[str]:
    options = reached.options
    if options.stream_ids:
        return await projected_streams(reached.store, options.stream_ids)
    if options.scope.of_rows:
        found = await find_streams(options.scope, reached.logs, reached.store, reached.projection)
        return await projected_streams(reached.store, found)
    return await find_streams(options.scope, reached.logs, reached.store, reached.projection, with_logs=False)


async def prune(
    settings: Settings,
    projection: Projection,
    options: RebuildOptions,
    stream_ids: Sequence[str],
    stop: asyncio.Event,
) -> bool:
    """Remove rows that were listed, unless they have a log by now, and print; whether it came to its end."""
    removed: list[str] = []
    done = 0
    async with (
        reach(settings, projection, options, stop) as reached,
        aclosing(reached.courtesy.parts(stream_ids, _AT_ONCE)) as parts,
    ):
        async for part in parts:
            results = await reached.persevere("pruning", partial(reached.rebuilder.prune, part))
            if results is not None:
                removed += results
                done += len(part)
    print_pruned(stream_ids, removed, as_json=options.as_json)
    return done == len(stream_ids)
