"""What operators do meanwhile: rebuilds, some of which are killed, change nothing that readers can see."""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack

from tests.acceptance.commands import RunningCommand, running
from tests.chaos.faults.fault import Target, faults
from tests.chaos.world import World
from tests.conversations import STREAM_IDS
from tests.waiting import wait_until

_LONGEST_SECONDS = 10.0


async def everything_rebuilt(world: World, rng: random.Random) -> None:
    """One or two processes rebuild all streams; each is killed after a while, unless it ends before that."""
    paces = [_pace(rng) for _ in range(rng.randint(1, 2))]
    with ExitStack() as stack:
        commands = [stack.enter_context(running("rebuild", *pace, env=world.env)) for pace in paces]
        await asyncio.gather(*(_ended_or_killed(command, rng) for command in commands))


async def streams_rebuilt(world: World, rng: random.Random) -> None:
    """Some streams are rebuilt by name."""
    named = [argument for stream_id in rng.sample(STREAM_IDS, 5) for argument in ("--stream", stream_id)]
    with running("rebuild", *named, env=world.env) as command:
        await _ended_or_killed(command, rng)


def _pace(rng: random.Random) -> list[str]:
    return rng.choice([[], ["--no-yield"], ["--rate", "50"]])


async def _ended_or_killed(command: RunningCommand, rng: random.Random) -> None:
    try:
        async with asyncio.timeout(rng.uniform(1, _LONGEST_SECONDS)):
            await wait_until(lambda: command.process.poll() is not None, "the end", _LONGEST_SECONDS)
    except TimeoutError:
        command.process.kill()


FAULTS = faults(Target.OPERATORS, everything_rebuilt, streams_rebuilt)
