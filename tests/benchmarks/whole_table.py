"""`rebuild` and `verify` of all streams as the commands do it, timed like a worker: once it can begin."""

from __future__ import annotations

import argparse
import asyncio

from projections import strategies
from tests.benchmarks.baselines.telling import finish, say
from worker.__main__ import collect_garbage_seldom
from worker.app import connect
from worker.migrate import check_schema
from worker.rebuild_reach import RebuildOptions
from worker.rebuild_work import rebuild
from worker.scope import Scope
from worker.settings import load_settings
from worker.verify_work import Selection, verify_projections


async def run(way: str) -> None:
    """Rebuild or verify everything; it must come out well."""
    settings = load_settings("redis_url", "database_url")
    collect_garbage_seldom()
    async with connect(settings) as servers:  # What follows connects once more, which counts.
        await check_schema(servers.engine)
    say("started")
    if way == "rebuild":
        options = RebuildOptions(Scope(), as_json=True)
        assert await rebuild(settings, strategies, options, asyncio.Event())
    else:
        everything = Selection(projection=None, stream_ids=None, share=1.0, limit=1)
        assert await verify_projections(settings, everything, fix=False, as_json=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=["rebuild", "verify"])
    asyncio.run(run(parser.parse_args().way))
    finish()
