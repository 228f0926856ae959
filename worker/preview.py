"""What a rebuild would change: rows compared with what the running handlers make of their logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from worker.difference import Difference
from worker.finding import compare_row, head_of
from worker.folds import folds_at_positions
from worker.judgement import Verdict, judge
from worker.log import Log, PageRequest
from worker.projection import Projection
from worker.snapshot import Snapshots


@dataclass(frozen=True, slots=True)
class Preview:
    """What a rebuild would do to one stream.

    ``verdict`` says why it would be refused; the row is compared with nothing then. ``differences`` give the
    new value as ``expected`` and the old one as ``stored``. ``version`` is the row's, None where there is
    none. ``makes_row`` says that the log holds an event and that there is no row yet, or one without a
    position.
    """

    stream_id: str
    verdict: Verdict | None = None
    differences: tuple[Difference, ...] = ()
    version: int | None = None
    makes_row: bool = False


class Previewer:
    """Previews rebuilds of one projection. Writes nothing."""

    def __init__(self, logs: Log, engine: AsyncEngine, projection: Projection) -> None:
        self._logs = logs
        self._projection = projection
        self._snapshots = Snapshots(engine, projection)

    async def preview(
        self, stream_ids: Sequence[str], *, accept_loss: bool = False, deliberate: bool = False
    ) -> list[Preview]:
        """What a rebuild of these streams, a hundred at most, would do, in this order.

        The options are those of `worker.rebuild.Rebuilder.rebuild`.
        Each log is folded up to its row's position, so that a row which lags behind is not told to change. Of
        columns that follow from other streams it tells how they differ from the facts as they are stored now.
        Rows may move while they are looked at: what is told of such a one may be out of date.
        """
        previews: dict[str, Preview] = {}
        for part in await self._snapshots.parts(list(dict.fromkeys(stream_ids))):
            previews |= await self._preview(part, accept_loss=accept_loss, deliberate=deliberate)
        return [previews[stream_id] for stream_id in stream_ids]

    async def _preview(
        self, stream_ids: Sequence[str], *, accept_loss: bool, deliberate: bool
    ) -> dict[str, Preview]:
        snapshot = await self._snapshots.take(stream_ids)
        rowless = [stream_id for stream_id in stream_ids if stream_id not in snapshot.projected]
        news = await self._logs.find_projected([PageRequest(s, None) for s in rowless])
        previews = {found.stream_id: Preview(found.stream_id, makes_row=found.news) for found in news}
        folds = await folds_at_positions(self._logs, self._projection, snapshot, list(snapshot.projected))
        for stream_id, at in folds.items():
            row, version = snapshot.rows[stream_id], self._projection.version
            verdict = judge(
                version, head_of(row), at.log, at.extent, accept_loss=accept_loss, deliberate=deliberate
            )
            different: Sequence[Difference] = ()
            if verdict is None:
                facts, children = snapshot.facts.get(stream_id), snapshot.children.get(stream_id, {})
                different = compare_row(self._projection, stream_id, row, facts, children, at.log)
            kept = await self._snapshots.as_stored(different)
            previews[stream_id] = Preview(stream_id, verdict, kept, row["version"])
        return previews
