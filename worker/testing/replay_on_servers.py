"""The law of replay on real servers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from worker.outcome import Outcome
from worker.projection import Projection
from worker.rebuild import rebuild_streams
from worker.testing.replay import StreamDraft
from worker.testing.servers import outside_any_loop
from worker.testing.workers import StepReplica
from worker.testing.world import World
from worker.testing.worlds import Worlds


def replay_on_servers(
    worlds: Worlds, projection: Projection, ordered: Sequence[StreamDraft], seed: int
) -> None:
    """Append, project, rebuild and compare; see `worker.testing.replay`. The world is emptied first."""
    outside_any_loop(_replay(worlds, projection, ordered, random.Random(seed)))


async def _replay(
    worlds: Worlds, projection: Projection, ordered: Sequence[StreamDraft], chance: random.Random
) -> None:
    async with worlds(projection, worker=False) as world:
        await world.empty()
        replicas = [world.replica(), world.replica()]
        streams: list[str] = []
        for stream_id, event_type, payload in ordered:
            await world.append(stream_id, event_type, payload)
            streams = sorted({*streams, stream_id})
            while chance.random() < 0.4:
                await _move(world, replicas, streams, chance)
        await _settle(world, replicas[0], streams)
        await world.assert_rows_are_folds()


async def _move(
    world: World, replicas: Sequence[StepReplica], streams: Sequence[str], chance: random.Random
) -> None:
    """Something that happens to some streams; passes of both replicas overlap as they like."""
    some = chance.sample(streams, chance.randint(1, len(streams)))
    what = chance.random()
    if what < 0.1:
        chance.choice(replicas).restart()
    elif what < 0.2:
        await rebuild_streams(world.redis, world.engine, world.projection, some, keys=world.keys)
    elif what < 0.5:
        await asyncio.gather(*(replica.project(some) for replica in replicas))
    else:
        await chance.choice(replicas).project(some, one_event=chance.random() < 0.5)


async def _settle(world: World, replica: StepReplica, streams: Sequence[str]) -> None:
    """Project until nothing is left to apply."""
    while streams:
        results = await replica.project(streams)
        for stream_id, result in results.items():
            if result.outcome is Outcome.REFUSED:
                raise AssertionError(
                    f"PostgreSQL refuses the row of stream {stream_id!r}: {result.error} Have handlers "
                    "reject payloads that do not fit."
                )
        streams = [s for s, found in results.items() if found.outcome in (Outcome.MORE, Outcome.LOST)]
