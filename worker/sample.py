"""A continuous sample: a worker verifies rows that chance chooses, at an even pace."""

from __future__ import annotations

from collections import OrderedDict

import structlog

from worker.finding import Finding
from worker.store import Store
from worker.table import Stamp
from worker.verify import Verifier

log = structlog.get_logger("verify")

_SHORTEST_PAUSE_SECONDS = 1.0
_MAX_REMEMBERED = 10_000


class Sample:
    """Verifies so many rows a minute. Written by one task; others read the counts.

    ``rows_verified`` counts rows that were compared, ``rows_drifted`` those that differ, each once for each
    stamp that it was seen with.
    """

    def __init__(self, verifier: Verifier, store: Store, *, per_minute: int) -> None:
        self.rows_verified = 0
        self.rows_drifted = 0
        self.on = per_minute > 0
        self.pause_seconds = max(_SHORTEST_PAUSE_SECONDS, 60 / per_minute) if self.on else 0.0
        self._verifier = verifier
        self._store = store
        self._rows_a_check = per_minute * self.pause_seconds / 60
        self._due = 0.0
        self._told: OrderedDict[str, Stamp | None] = OrderedDict()

    async def check(self) -> None:
        """Verify as many rows as are due after a pause.

        Takes as long as `Verifier.confirm` where one seems wrong, and may be cancelled at any time.
        """
        self._due += self._rows_a_check
        rows = int(self._due)
        self._due -= rows
        if not rows:
            return
        for finding in await self._verifier.verify(await self._store.random_streams(rows)):
            self.rows_verified += finding.compared
            if finding.drifted:
                self._tell(finding)

    def _tell(self, finding: Finding) -> None:
        """Log a wrong row once for each stamp. No values: they would be payloads."""
        stream_id = finding.stream_id
        if stream_id in self._told and self._told[stream_id] == finding.stamp:
            return
        self._told[stream_id] = finding.stamp
        if len(self._told) > _MAX_REMEMBERED:
            self._told.popitem(last=False)
        self.rows_drifted += 1
        columns = [difference.column for difference in finding.differences]
        position = finding.stamp.last_event_id if finding.stamp else None
        log.error("row_drifted", stream=stream_id, position=position, columns=columns)
