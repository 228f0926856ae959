"""`rebuild --dry-run`: looks at every stream as a rebuild would, and prints what would change."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial

from worker.dry_run import DryRun
from worker.preview import Previewer
from worker.progress import Stopwatch, shown
from worker.projection import Projection
from worker.rebuild_reach import RebuildOptions, known_and_unknown, reach
from worker.rebuild_screen import print_dry_run
from worker.scope import find_streams
from worker.settings import Settings

_AT_ONCE = 50


async def look_only(
    settings: Settings, projection: Projection, options: RebuildOptions, stop: asyncio.Event
) -> bool:
    """Preview, and print; whether no stream would be refused. A stop ends it early, with what was found."""
    dry = DryRun(options.limit)
    named = bool(options.stream_ids)
    async with reach(settings, projection, options, stop) as reached:
        if named:
            streams, dry.unknown = await known_and_unknown(reached, options.stream_ids)
        else:
            streams = await find_streams(options.scope, reached.logs, reached.store, projection)
        previewer = Previewer(reached.logs, reached.servers.engine, projection)
        watch = Stopwatch(len(streams))
        with shown(projection.name, as_json=options.as_json) as screen:
            async with aclosing(reached.courtesy.parts(streams, _AT_ONCE)) as parts:
                async for part in parts:
                    action = partial(
                        previewer.preview, part, accept_loss=options.scope.accept_loss, deliberate=named
                    )
                    for preview in await reached.persevere("previewing", action) or ():
                        dry.note(preview)
                    screen.show(watch.step(dry.streams, refused=sum(dry.refusals.values())))
    dry.total_streams = len(streams)
    # A rebuild reads as much, and writes besides, which takes most of the time where logs are short.
    if dry.streams:
        dry.estimate_seconds = len(streams) * watch.seconds / dry.streams
    print_dry_run(projection.name, dry, as_json=options.as_json)
    return dry.fine
