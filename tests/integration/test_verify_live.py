"""Verify under load: producers append, a service projects, and rows are undone, rebuilt and deleted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from tests.servers import RunningServers
from tests.serving import Serving, serving
from tests.verifying import VerifyingReplica, columns
from tests.waiting import wait_until
from worker import Keys
from worker.waiting import wait_for

STREAMS = [f"chat-{number}" for number in range(20)]
SHORT_LIVED = [f"short-{number}" for number in range(5)]
STEADY = "steady"
ALL = (*STREAMS, *SHORT_LIVED, STEADY)
RUNS = 20
PATIENCE = timedelta(seconds=2)
SWEEP_SECONDS = 0.3


class Load:
    """What applications do to their conversations, all of it much more often than they would."""

    def __init__(self, serving: Serving, world: VerifyingReplica, seed: int) -> None:
        self.undone = self.deleted = 0
        self._serving = serving
        self._world = world
        self._rng = random.Random(seed)
        self._stop = asyncio.Event()

    async def produce(self) -> None:
        while not await wait_for(self._stop, 0.02):
            await self._serving.emit(STEADY, "user_message", {})
            for stream_id in self._rng.sample(STREAMS, 3):
                await self._serving.emit(stream_id, *self._event())

    def _event(self) -> tuple[str, dict[str, Any]]:
        events: list[tuple[str, dict[str, Any]]] = [
            ("user_message", {}),
            ("assistant_delta", {"delta": "x"}),
            ("strategy_meta", {"name": str(self._rng.random())}),
            (
                "strategy_link",
                {"wdkStrategyId": self._rng.randint(1, 6), "isSaved": self._rng.random() < 0.7},
            ),
            ("graph_plan", {"plan": {"root": {"searchName": "s"}, "n": self._rng.random() * 10**25}}),
            ("graph_cleared", {}),
        ]
        return self._rng.choice(events)

    async def undo(self) -> None:
        """Take the last entries of logs back, and have their rows follow."""
        world = self._world
        while not await wait_for(self._stop, 0.03):
            stream_id = self._rng.choice(STREAMS)
            log = world.keys.log(stream_id)
            last: Any = await world.admin.execute_command("XREVRANGE", log, "+", "-", "COUNT", 4)
            if len(last) == 4:
                await world.admin.xdel(log, *(entry[0] for entry in last[: self._rng.randint(1, 3)]))
                # A producer that goes on at once makes it look like a loss to servers before Redis 7.
                rebuilt = await world.rebuild(stream_id, deliberate=True, accept_loss=True)
                assert rebuilt.refusal is None, rebuilt
                self.undone += 1

    async def delete(self) -> None:
        """Begin conversations and delete them, log first, again and again under the same names."""
        while not await wait_for(self._stop, 0.05):
            stream_id = self._rng.choice(SHORT_LIVED)
            for _ in range(3):
                last = await self._serving.emit(stream_id, "strategy_link", {"wdkStrategyId": 1})
            await self._serving.reached(stream_id, last)
            await self._world.admin.delete(self._world.keys.log(stream_id))
            await self._world.damage(f"DELETE FROM stream_projections WHERE stream_id = '{stream_id}'")
            self.deleted += 1

    async def rebuild(self) -> None:
        while not await wait_for(self._stop, 0.1):
            await self._world.rebuilder.rebuild(self._rng.sample(STREAMS, 5))

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for action in (self.produce, self.undo, self.delete, self.rebuild):
                tasks.create_task(action())
            try:
                yield
            finally:
                self._stop.set()


async def test_nothing_is_reported_of_a_healthy_table_under_load_and_damage_is(
    servers: RunningServers, database_url: str, keys: Keys
) -> None:
    async with serving(servers.redis_url, database_url, keys, sweep_seconds=SWEEP_SECONDS) as running:
        world = VerifyingReplica(
            running.redis, keys, running.world.engine, patience=PATIENCE, pause=asyncio.sleep
        )
        load = Load(running, world, seed=random.randrange(1_000_000))
        async with load.going_on():
            await wait_until(lambda: load.deleted > 5 and load.undone > 10, "the load to be under way")
            compared = 0
            for _ in range(RUNS):
                found = await world.verify(*ALL)
                assert [finding for finding in found if finding.wrong] == []
                compared += sum(finding.compared for finding in found)
            assert compared > RUNS * len(STREAMS) / 2
            await world.damage(f"UPDATE stream_projections SET name = 'x' WHERE stream_id = '{STEADY}'")
            assert columns(*await world.verify(*ALL)) == {STEADY: {"name"}}
