"""Logs folded up to where rows stand, to compare the rows with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.events import EventId, is_event_id
from worker.extent import Extent
from worker.log import Log
from worker.projection import Projection
from worker.replay import FoldedLog, ReplayRequest, fold_logs
from worker.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class FoldAtPosition:
    """A log folded up to its row's position, and its extent after that, asked whether it holds it."""

    log: FoldedLog
    extent: Extent


async def folds_at_positions(
    logs: Log, projection: Projection, snapshot: Snapshot, stream_ids: Sequence[str]
) -> dict[str, FoldAtPosition]:
    """Fold the logs of these streams, each of which has a row with a position, with the snapshot's skips.

    Where the position is no event id, the whole log is folded.
    """
    if not stream_ids:
        return {}
    positions = {s: str(snapshot.rows[s]["last_event_id"]) for s in stream_ids}
    real = {s: EventId.parse(position) for s, position in positions.items() if is_event_id(position)}
    requests = [ReplayRequest(s, snapshot.skipped(s), real.get(s)) for s in stream_ids]
    folded = await fold_logs(logs, projection, requests)
    extents = await logs.extents({s: positions[s] if s in real else None for s in stream_ids})
    return {s: FoldAtPosition(folded[s], extents[s]) for s in stream_ids}
