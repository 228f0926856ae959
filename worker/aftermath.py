"""What follows from a pass for the streams that were in it: who must hear of it, and who must rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from time import monotonic

import structlog

from worker.diverged import DivergedStreams
from worker.handover import Handover
from worker.health import Health
from worker.isolation import Isolation
from worker.moved import write_moved
from worker.outcome import Outcome, StreamResult
from worker.suspects import Suspects
from worker.sweep import Sweep

log = structlog.get_logger("batches")

_FINAL = frozenset({Outcome.CAUGHT_UP, Outcome.BLOCKED, Outcome.DIVERGED, Outcome.UNREADABLE})
"""Outcomes after which a stream's hints are acknowledged: trying again would do nothing."""

_TOLD_OF = frozenset({Outcome.CAUGHT_UP, Outcome.MORE, Outcome.BLOCKED, Outcome.DIVERGED})
"""Outcomes that may be news to whoever waits for a stream's events."""

_WRITING = "writing rows"
_LOST_WITHOUT_REST = 2
_FIRST_REST_SECONDS = 0.01
_LONGEST_REST_SECONDS = 5.0
_NEWER_REST_SECONDS = 0.25
_TELL_AGAIN_SECONDS = 60.0


class Aftermath:
    """Tells those who remember streams where each stands, and remembers which of them do not get on."""

    def __init__(
        self, projection: str, channel: str, isolation: Isolation, suspects: Suspects,
        diverged: DivergedStreams, sweep: Sweep, handover: Handover, health: Health,
    ) -> None:  # fmt: skip
        self._projection = projection
        self._channel = channel
        self._isolation = isolation
        self._suspects = suspects
        self._diverged = diverged
        self._sweep = sweep
        self._handover = handover
        self._health = health
        self._passed_on: set[str] = set()
        self._tell_newer_at = 0.0
        self._setbacks: dict[str, int] = {}
        self._refused: set[str] = set()

    async def note(self, results: Mapping[str, StreamResult]) -> None:
        """Tell where a pass has left streams. May be repeated.

        Who waits for their events is told along with something else, so that it costs no round trip. Dying
        before that, like a message that is lost, leaves it to those who wait to look by themselves.
        """
        moved = [stream_id for stream_id, result in results.items() if result.outcome in _TOLD_OF]
        tell = ("PUBLISH", self._channel, write_moved(moved)) if moved else ()
        await self._suspects.end(results.keys(), tell=tell)
        self._tell_of_refusals(results)
        for stream_id, result in results.items():
            self._sweep.note(stream_id, result)
            if result.outcome is Outcome.DIVERGED:
                assert result.read_to is not None
                await self._diverged.add(stream_id, result.read_to)
            elif result.outcome in _FINAL:
                await self._diverged.remove(stream_id)
        await self._pass_on([s for s, result in results.items() if result.outcome is Outcome.NEWER_VERSION])

    async def _pass_on(self, stream_ids: Collection[str]) -> None:
        """Leave streams, with their hints, to the replicas of the newer version that wrote their rows.

        Until these read the streams' partitions, the hints stay here. If there is no such replica, nobody is
        waited for: the first sweep of one that comes finds the news.
        """
        self._passed_on.clear()
        if not stream_ids:
            return
        self._handover.met_newer()
        if monotonic() >= self._tell_newer_at:
            self._tell_newer_at = monotonic() + _TELL_AGAIN_SECONDS
            log.warning("rows_of_newer_version", streams=len(stream_ids), example=min(stream_ids))
        if not self._handover.tenure.newer:
            self._passed_on.update(stream_ids)
            return
        elsewhere = [stream_id for stream_id in stream_ids if not self._handover.reads(stream_id)]
        await self._handover.hint(elsewhere)
        self._passed_on.update(elsewhere)

    def is_final(self, stream_id: str, result: StreamResult | None) -> bool:
        """Whether nothing is left to do here for a stream that was in the last pass. Ask after `note`.

        None is the result of a pass that was given up at a stop: its hints are for others.
        """
        if result is None:
            return False
        return result.outcome in _FINAL or stream_id in self._passed_on

    def _tell_of_refusals(self, results: Mapping[str, StreamResult]) -> None:
        """A table that takes no row at all is trouble until every stream that met it got on."""
        before, refused = self._refused, {s for s, r in results.items() if r.outcome is Outcome.REFUSED}
        self._refused = (before - results.keys()) | refused
        if self._refused:
            why = self._isolation.refused_by_table
            what = (
                f"PostgreSQL refuses all rows, those of {len(self._refused)} streams so far. Mend the table."
            )
            self._health.report(_WRITING, f"{what} {why}", self._projection)
            if not before:
                log.error("table_refuses_rows", error=why)
        elif before:
            self._health.over(_WRITING, self._projection)
            log.info("table_takes_rows_again")

    def rest_seconds(self, stream_id: str, result: StreamResult | None) -> float:
        """How long a stream must rest before it is taken again, for not getting on. Ask once after a pass."""
        match result.outcome if result else None:
            case Outcome.LOST:
                setbacks = self._setbacks[stream_id] = self._setbacks.get(stream_id, 0) + 1
                vain = setbacks - _LOST_WITHOUT_REST
                return min(_FIRST_REST_SECONDS * 2 ** min(vain, 20), _LONGEST_REST_SECONDS) if vain > 0 else 0
            case Outcome.REFUSED:
                return _LONGEST_REST_SECONDS
            case Outcome.NEWER_VERSION:
                return _NEWER_REST_SECONDS
        self._setbacks.pop(stream_id, None)
        return 0
