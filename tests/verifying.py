"""Conversations that are projected and then damaged, and what a verifier finds of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tests.projecting import run
from tests.rebuilding import RebuildingReplica
from worker.finding import Finding
from worker.outcome import Outcome
from worker.verify import Pause, Verifier

PLAN = {"root": {"searchName": "s"}, "numbers": [1e23, 1.50, -0.0, 10**30, 1e-7]}
STREAMS = ("a", "b", "c")
IMPATIENT = timedelta(0)


async def hurry_on(_seconds: float) -> None:
    """In place of a pause between two looks, where nobody changes anything meanwhile."""


@dataclass
class VerifyingReplica(RebuildingReplica):
    """A replica, a rebuilder, and a verifier that takes what it sees for lasting after a few looks."""

    verifier: Verifier = field(init=False)
    patience: timedelta = IMPATIENT
    pause: Pause = hurry_on

    def __post_init__(self) -> None:
        super().__post_init__()
        self.verifier = Verifier(
            self.logs, self.engine, self.projection, patience=self.patience, pause=self.pause
        )

    async def converse(self) -> None:
        """Append three conversations, of which each takes strategy 7 from the one before, and project them.

        The events of each have the ids 1000-0, 2000-0 and so on, a second apart, 2 milliseconds later in the
        second and 4 in the third; between them lie token deltas.
        """
        pipeline = self.producer.pipeline(transaction=False)
        for late, stream_id in zip((0, 2, 4), STREAMS, strict=True):
            for number, (event_type, data) in enumerate(_events(), 1):
                for seq, fields in enumerate(((event_type, json.dumps(data)), ("assistant_delta", "{}"))):
                    entry: Any = {"op": "", "type": fields[0], "data": fields[1]}
                    pipeline.xadd(self.keys.log(stream_id), entry, id=f"{number * 1000 + late}-{seq}")
        await pipeline.execute()
        await self.catch_up(*STREAMS)

    async def catch_up(self, *stream_ids: str) -> None:
        """Project until nothing is left."""
        waiting = list(stream_ids)
        while waiting:
            outcomes = dict(zip(waiting, await self.project(*waiting), strict=True))
            waiting = [s for s, outcome in outcomes.items() if outcome in (Outcome.MORE, Outcome.LOST)]

    async def damage(self, *statements: str) -> None:
        """Change tables by hand."""
        await run(self.engine, *statements)

    async def verify(self, *stream_ids: str) -> list[Finding]:
        """What is found of these streams."""
        return await self.verifier.verify(stream_ids or STREAMS)

    async def find(self, stream_id: str) -> Finding:
        """What is found of one stream."""
        [found] = await self.verifier.verify([stream_id])
        return found


def _events() -> Sequence[tuple[str, dict[str, Any]]]:
    return (
        ("user_message", {"content": "1"}),  # 1000
        ("strategy_meta", {"name": "first", "recordType": "gene"}),  # 2000
        ("strategy_link", {"wdkStrategyId": 6, "isSaved": True}),  # 3000
        ("model_selected", {"modelId": "m"}),  # 4000
        ("graph_snapshot", {"graphSnapshot": {"steps": [{"id": "s"}], "rootStepId": "s"}}),  # 5000
        ("strategy_link", {"wdkStrategyId": 7}),  # 6000
        ("graph_plan", {"plan": PLAN}),  # 7000
        ("strategy_meta", {"name": "second"}),  # 8000
        ("assistant_message", {"content": "2"}),  # 9000
    )


def columns(*findings: Finding) -> dict[str, set[str]]:
    """The columns that differ, by stream."""
    return {f.stream_id: {d.column for d in f.differences} for f in findings if f.differences}
