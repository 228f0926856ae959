"""A survey: verify over a whole table, or a share of it, and over the logs that have no row yet.

What is kept of it is bounded, however much is wrong; counts are whole.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from worker.difference import excerpts
from worker.finding import Finding, Obstacle
from worker.log_scan import LogScan
from worker.overlap import overlap
from worker.store import Store
from worker.verify import Verifier, in_parts, suspicious

_STEP = 500
_SUSPECTS_AT_ONCE = 1_000
_EXCERPT_LENGTH = 60
_COUNTED_ONLY = frozenset(
    {Obstacle.NOTHING, Obstacle.LEFT_OUT, Obstacle.OLDER_VERSION, Obstacle.NEWER_VERSION}
)


@dataclass(frozen=True, slots=True)
class ToldDifference:
    """A difference with both values shortened; ``stored`` is what the table has."""

    column: str
    expected: str
    stored: str
    first_event: str | None


@dataclass(frozen=True, slots=True)
class ToldFinding:
    """What is told of one stream; see `worker.finding.Finding`."""

    stream_id: str
    wrong: bool
    missing: str | None
    obstacle: Obstacle | None
    detail: str
    differences: tuple[ToldDifference, ...]


@dataclass(slots=True)
class Survey:
    """What was found so far.

    ``rows_compared`` counts streams, as do ``wrong``, those of which something is wrong, and ``obstacles``.
    ``drifted`` are the streams that a rebuild should mend. Of the findings to tell of, those that say that
    something is wrong are the first, and at most ``limit`` of either kind are kept.
    """

    limit: int
    rows_compared: int = 0
    wrong: int = 0
    obstacles: Counter[Obstacle] = field(default_factory=Counter)
    drifted: list[str] = field(default_factory=list)
    _kept: dict[bool, list[ToldFinding]] = field(default_factory=lambda: {True: [], False: []})
    _to_tell: int = 0

    @property
    def told(self) -> Sequence[ToldFinding]:
        """The findings that were kept, those of wrong streams first."""
        return (*self._kept[True], *self._kept[False])[: self.limit]

    @property
    def untold(self) -> int:
        """How many findings there are besides."""
        return self._to_tell - len(self.told)

    def note(self, finding: Finding, *, named: bool = False) -> None:
        """Take a finding in. Of a stream that somebody ``named`` more is told than of others."""
        self.rows_compared += finding.compared
        self.wrong += finding.wrong
        if finding.obstacle:
            self.obstacles[finding.obstacle] += 1
        if finding.drifted:
            self.drifted.append(finding.stream_id)
        if finding.wrong or (finding.obstacle and (named or finding.obstacle not in _COUNTED_ONLY)):
            self._to_tell += 1
            if len(self._kept[finding.wrong]) < self.limit:
                self._kept[finding.wrong].append(_told(finding))


def _told(finding: Finding) -> ToldFinding:
    return ToldFinding(
        finding.stream_id,
        finding.wrong,
        finding.missing,
        finding.obstacle,
        finding.detail,
        tuple(
            ToldDifference(difference.column, *excerpts(difference, _EXCERPT_LENGTH), difference.first_event)
            for difference in finding.differences
        ),
    )


class Surveyor:
    """Verifies many streams, a few at a time. ``advance`` hears how many rows each step was about."""

    def __init__(
        self, verifier: Verifier, scan: LogScan, store: Store, advance: Callable[[int], None] = lambda _: None
    ) -> None:
        self._verifier = verifier
        self._scan = scan
        self._store = store
        self._advance = advance

    async def survey_streams(self, stream_ids: Sequence[str], survey: Survey) -> None:
        """Verify these streams."""
        suspects: dict[str, None] = {}
        for at in range(0, len(stream_ids), _STEP):
            some = stream_ids[at : at + _STEP]
            await self._look(some, suspects, survey, named=True)
            self._advance(len(some))
        await self._confirm(suspects, survey, named=True)

    async def survey_table(self, share: float, survey: Survey) -> None:
        """Verify a share of the rows, chosen by chance, and of the logs without one; 1.0 is all of them."""
        suspects: dict[str, None] = {}
        async with aclosing(self._all_streams()) as steps:
            async for stream_ids in steps:
                chosen = _share(stream_ids, share)
                await self._look([s for s in chosen if s not in suspects], suspects, survey)
                if len(suspects) >= _SUSPECTS_AT_ONCE:
                    await self._confirm(suspects, survey)
        await self._confirm(suspects, survey)

    async def _all_streams(self) -> AsyncGenerator[list[str], None]:
        """The streams of all rows that have a position, then those of logs that seem to have none."""
        stream_ids = await self._store.streams_after("", _STEP)
        while stream_ids:
            yield stream_ids
            self._advance(len(stream_ids))
            stream_ids = await self._store.streams_after(stream_ids[-1], _STEP)
        async for found in self._scan.all_streams():
            positions = await self._store.positions(found) if found else {}
            yield [stream_id for stream_id in dict.fromkeys(found) if positions.get(stream_id) is None]

    async def _look(
        self, stream_ids: Sequence[str], suspects: dict[str, None], survey: Survey, *, named: bool = False
    ) -> None:
        """Look once; note what is clear, and remember what must be looked at again.

        While one part is folded, the servers make what the next one needs.
        """

        async def note(findings: Sequence[Finding]) -> None:
            for finding in findings:
                if suspicious(finding):
                    suspects[finding.stream_id] = None
                else:
                    survey.note(finding, named=named)

        await overlap(list(in_parts(stream_ids)), self._verifier.look, note, _nothing_more)

    async def _confirm(self, suspects: dict[str, None], survey: Survey, *, named: bool = False) -> None:
        async with aclosing(self._verifier.confirm(suspects)) as findings:
            async for finding in findings:
                survey.note(finding, named=named)
        suspects.clear()


async def _nothing_more(_: Sequence[Finding]) -> None:
    """Findings are written nowhere."""


def _share(stream_ids: Iterable[str], share: float) -> list[str]:
    return [stream_id for stream_id in stream_ids if share >= 1 or random.random() < share]
