"""A rebuilder beside a replica: tests append to logs, project, change things, and have rows rebuilt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.projecting import Replica
from worker.diverged import DivergedStreams
from worker.rebuild import Rebuilder, Rebuilt


@dataclass
class RebuildingReplica(Replica):
    """A replica, and a rebuilder of the same version on the same logs and table."""

    diverged: DivergedStreams = field(init=False)
    rebuilder: Rebuilder = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.diverged = DivergedStreams(self.redis, self.keys, self.projection.name)
        self.rebuilder = Rebuilder(self.projection, self.logs, self.store, self.blocked, self.diverged)

    async def rebuild(self, stream_id: str, **how: Any) -> Rebuilt:
        """Rebuild one stream."""
        [rebuilt] = await self.rebuilder.rebuild([stream_id], **how)
        return rebuilt

    async def rebuild_deliberately(self, stream_id: str) -> Rebuilt:
        """As an operator does who names the stream."""
        return await self.rebuild(stream_id, deliberate=True)
