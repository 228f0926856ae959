"""Stale rows, those of an older version of the projection: folded anew when their streams get news.

Nothing is ever folded onto a stale row. Its log is folded again from the start, in memory, a page a pass, so
that a long log keeps no other stream waiting; the row is replaced when the fold has reached the log's end.
Only a log that has lost its beginning cannot be folded again: its row is folded on and stays stale.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from time import monotonic

from worker.cache import KnownStream
from worker.events import EventId
from worker.extent import Extent
from worker.judgement import Verdict, judge
from worker.log import Log, Page, PageRequest, ReadTerms
from worker.projection import Projection
from worker.replay import FoldedLog, fold_page
from worker.row import RawJson
from worker.table import RowHead, Stamp, StoredRow

_MOST_BYTES = 64 * 1024 * 1024
_FORGOTTEN_AFTER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Where the fold of a stale row's log stands after a pass.

    ``verdict`` says why the row is not to be replaced. Without one it is to be replaced by ``folded``, unless
    that goes on: then there is more to fold. ``folded`` None: there is no room to begin.
    """

    folded: FoldedLog | None = None
    verdict: Verdict | None = None


@dataclass(slots=True)
class _Begun:
    stamp: Stamp
    folded: FoldedLog
    advanced_at: float
    bytes: int


class Upgrades:
    """The folds under way, in memory: whoever dies begins them anew, and so does another replica."""

    def __init__(self, projection: Projection, logs: Log) -> None:
        self._projection = projection
        self._logs = logs
        self._begun: dict[str, _Begun] = {}

    async def advance(self, stale: Mapping[str, KnownStream], terms: ReadTerms) -> dict[str, Upgrade]:
        """Fold a page more of each of these streams, read on these terms."""
        if not stale:
            return {}
        heads = {
            s: RowHead(known.row.stamp, known.row.first_event_id) for s, known in stale.items() if known.row
        }
        extents = await self._logs.extents({s: head.stamp.last_event_id for s, head in heads.items()})
        self._forget_old()
        upgrades: dict[str, Upgrade] = {}
        for stream_id, head in heads.items():
            nothing_yet = FoldedLog(self._projection.new_state, first_event_id=extents[stream_id].first_id)
            verdict = self._judge(head, nothing_yet, extents[stream_id])
            upgrades[stream_id] = Upgrade(verdict=verdict) if verdict else Upgrade()
        going_on = self._begin({s: head for s, head in heads.items() if not upgrades[s].verdict})
        requests = [PageRequest(s, self._begun[s].folded.read_to) for s in going_on]
        pages = await self._logs.read(requests, terms)
        folded = {
            s: self._fold(s, page, stale[s].heeded.skipped) for s, page in zip(going_on, pages, strict=True)
        }
        # Asked again, since a log may have lost its tail just before it was read.
        ended = {s: heads[s].stamp.last_event_id for s in going_on if not folded[s].goes_on}
        extents = await self._logs.extents(ended) if ended else {}
        for stream_id in going_on:
            extent = extents.get(stream_id)
            verdict = self._judge(heads[stream_id], folded[stream_id], extent) if extent else None
            upgrades[stream_id] = Upgrade(folded[stream_id], verdict)
        return upgrades

    def _judge(self, head: RowHead, folded: FoldedLog, extent: Extent) -> Verdict | None:
        return judge(self._projection.version, head, folded, extent, accept_loss=False, deliberate=False)

    def _begin(self, heads: Mapping[str, RowHead]) -> list[str]:
        """The streams whose folds are under way from now on, as far as there is room for them."""
        room = _MOST_BYTES - sum(begun.bytes for begun in self._begun.values())
        for stream_id, head in heads.items():
            begun = self._begun.get(stream_id)
            if begun and head.stamp.at_most_moved_on_from(begun.stamp):
                begun.advanced_at = monotonic()  # Others are begun while its page is read.
                continue
            self._begun.pop(stream_id, None)
            if room > 0:
                folded = FoldedLog(self._projection.new_state)
                self._begun[stream_id] = begun = _Begun(head.stamp, folded, monotonic(), _bytes(folded))
                room -= begun.bytes
        return [stream_id for stream_id in heads if stream_id in self._begun]

    def _fold(self, stream_id: str, page: Page, skipped: Collection[EventId]) -> FoldedLog:
        """Fold a page; from the start again where the log was cut in the place that it had been read to."""
        begun = self._begun[stream_id]
        if begun.folded.read_to in (None, page.first_id):
            begun.folded = fold_page(self._projection, begun.folded, page, skipped)
        else:
            begun.folded = FoldedLog(self._projection.new_state)
        begun.advanced_at = monotonic()
        begun.bytes = _bytes(begun.folded)
        if not begun.folded.goes_on:
            del self._begun[stream_id]
        return begun.folded

    def _forget_old(self) -> None:
        """Drop folds that nobody went on with: other replicas have done them."""
        before = monotonic() - _FORGOTTEN_AFTER_SECONDS
        self._begun = {s: begun for s, begun in self._begun.items() if begun.advanced_at > before}


def is_stale(row: StoredRow | None, version: int) -> bool:
    """Whether a row was folded by an older version. One without a position was made by somebody else."""
    return row is not None and row.stamp.last_event_id is not None and row.stamp.version < version


def _bytes(folded: FoldedLog) -> int:
    """About how much memory a fold under way takes."""
    text = sum(
        len(v.text if isinstance(v, RawJson) else v) for v in folded.state if isinstance(v, RawJson | str)
    )
    text += sum(len(rejection.raised or "") for rejection in folded.rejections)
    text += sum(rows.bytes for rows in folded.children.values())
    return 1_000 + text + 200 * (len(folded.facts) + len(folded.rejections))
