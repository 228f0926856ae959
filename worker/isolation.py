"""Finding the culprit: batches are split until what PostgreSQL refuses, or what kills workers, is alone.

A single bad event must hold up its own stream and no other. So it ends as an open dead letter, unless it
shows that PostgreSQL would take no other row either.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog
from sqlalchemy.exc import DBAPIError

from worker.blocked import Block, BlockedStreams
from worker.events import EventId, field
from worker.judgement import is_trimmed
from worker.letters import Letter, Reason
from worker.log import Log, PageRequest
from worker.outcome import Outcome, StreamResult
from worker.projection import Projection
from worker.projector import Projector
from worker.store import Store
from worker.suspects import Suspects
from worker.table import RowHead
from worker.trouble import SERVER_ERRORS, Trouble, classify, describe, sqlstate

log = structlog.get_logger("batches")

ProjectBatch = Callable[[Sequence[str]], Awaitable[dict[str, StreamResult]]]
"""`Isolation.project_batch`, or what does something around it."""

_LOCK_TIMEOUT = "55P03"
_WITHOUT_LIMIT = 1_000_000
_EVENTS_ALONE_A_PASS = 100
"""How many events of a suspicious stream are applied one by one before others get their turn."""


class Isolation:
    """Projects batches, in smaller and smaller parts where there is trouble.

    Dying anywhere is as harmless as in `Projector.project_batch`, which does all the writing, but for dead
    letters: each is recorded only while its row stands before the event.
    """

    def __init__(
        self, projection: Projection, projector: Projector, suspects: Suspects, store: Store,
        blocked: BlockedStreams, logs: Log,
    ) -> None:  # fmt: skip
        self._projection = projection
        self._projector = projector
        self._suspects = suspects
        self._store = store
        self._blocked = blocked
        self._logs = logs
        self._races = projection.races
        self._at_once = _WITHOUT_LIMIT
        self.refused_by_table = ""

    async def project_batch(self, stream_ids: Sequence[str]) -> dict[str, StreamResult]:
        """Apply up to a page of events to each stream, and say where each stands.

        Streams in whose company replicas have died are projected alone, event by event; after some more
        deaths the event is given up.
        """
        try:
            return await self._project_batch(stream_ids)
        except SERVER_ERRORS:
            # Who waits for a server has nothing in flight: dying meanwhile must count against no stream.
            with suppress(*SERVER_ERRORS):
                await self._suspects.end(())
            raise

    async def _project_batch(self, stream_ids: Sequence[str]) -> dict[str, StreamResult]:
        if any(map(self._suspects.suspected, stream_ids)):
            await self._suspects.refresh()  # Another replica may have cleared or convicted it meanwhile.
        suspected = [stream_id for stream_id in stream_ids if self._suspects.suspected(stream_id)]
        results: dict[str, StreamResult] = {}
        for part in self._parts([s for s in stream_ids if s not in set(suspected)]):
            results |= await self._in_smaller_parts(part)
        for stream_id in sorted(suspected, key=self._suspects.deaths):  # the innocent first
            await self._suspects.begin([stream_id])
            kills = self._suspects.convicted(stream_id)
            results[stream_id] = await (self._give_up(stream_id) if kills else self._alone(stream_id))
        return results

    def _parts(self, stream_ids: Sequence[str]) -> list[Sequence[str]]:
        """As a rule the whole; less after a connection was lost, perhaps because it was too much for it."""
        return [stream_ids[at : at + self._at_once] for at in range(0, len(stream_ids), self._at_once)]

    async def _in_smaller_parts(self, stream_ids: Sequence[str]) -> dict[str, StreamResult]:
        try:
            results = await self._project(stream_ids)
        except DBAPIError as error:
            trouble = classify(error, self._races)
            if sqlstate(error) == _LOCK_TIMEOUT and len(stream_ids) > 1:
                return await self._around_locks(stream_ids, error)
            if trouble is Trouble.RECONNECT:
                self._at_once = max(1, len(stream_ids) // 2)
            if trouble is not Trouble.POISON:
                raise
            if len(stream_ids) == 1:
                return {stream_ids[0]: await self._alone(stream_ids[0])}
        else:
            if len(stream_ids) >= self._at_once:
                self._at_once *= 2
            refused = [s for s in stream_ids if results[s].outcome is Outcome.REFUSED]
            for stream_id in refused:
                results[stream_id] = await self._alone(stream_id)
            return results
        # A row among them cannot even be loaded.
        middle = len(stream_ids) // 2
        first = await self._in_smaller_parts(stream_ids[:middle])
        return first | await self._in_smaller_parts(stream_ids[middle:])

    async def _project(self, stream_ids: Sequence[str]) -> dict[str, StreamResult]:
        """Have it written down what is in flight while the logs are read, before a payload is looked at."""
        beginning = asyncio.ensure_future(self._suspects.begin(stream_ids))
        try:
            return await self._projector.project_batch(stream_ids, before_decoding=beginning)
        finally:
            await asyncio.gather(beginning, return_exceptions=True)

    async def _around_locks(self, stream_ids: Sequence[str], error: DBAPIError) -> dict[str, StreamResult]:
        """Project streams one by one, and put those off whose locks somebody keeps, perhaps for hours.

        If the first two meet such a lock it is the whole table that is locked, and ``error`` is raised.
        """
        results: dict[str, StreamResult] = {}
        for stream_id in random.sample(stream_ids, len(stream_ids)):  # so that no two are always the first
            try:
                results |= await self._in_smaller_parts([stream_id])
            except DBAPIError as lone:
                if sqlstate(lone) != _LOCK_TIMEOUT:
                    raise
                results[stream_id] = StreamResult(Outcome.LOST)
            if [result.outcome for result in results.values()] == [Outcome.LOST] * 2:
                raise error
        return results

    async def _alone(self, stream_id: str) -> StreamResult:
        """Apply events one by one, each committed before the next, so that a refusal shows its event."""
        result = StreamResult(Outcome.MORE)
        for _ in range(_EVENTS_ALONE_A_PASS):
            try:
                result = (await self._projector.project_batch([stream_id], one_event=True))[stream_id]
            except DBAPIError as error:
                if classify(error, self._races) is not Trouble.POISON:
                    raise
                result = StreamResult(Outcome.REFUSED, error=describe(error))
            if result.outcome is Outcome.REFUSED:
                return await self._refused(stream_id, result.error)
            if result.outcome is not Outcome.MORE:
                break
        return result

    async def _refused(self, stream_id: str, error: str) -> StreamResult:
        """PostgreSQL refuses a row because of one event; or it refuses all rows, whatever the event."""
        try:
            await self._store.probe(stream_id)
        except DBAPIError as also:
            if classify(also, self._races) is not Trouble.POISON:
                raise
            self.refused_by_table = describe(also)
            return StreamResult(Outcome.REFUSED)
        log.error("row_refused", stream=stream_id, error=error)
        return await self._stop(stream_id, Reason.ROW_REFUSED, error, retried=True)

    async def _give_up(self, stream_id: str) -> StreamResult:
        """Do not try an event again in whose company one replica after another has died."""
        deaths = self._suspects.deaths(stream_id)
        log.error("event_kills_the_worker", stream=stream_id, deaths=deaths)
        error = f"{deaths} workers ended while they applied this event, the last of them nothing else."
        return await self._stop(stream_id, Reason.KILLS_THE_WORKER, error, retried=False)

    async def _stop(self, stream_id: str, reason: Reason, error: str, *, retried: bool) -> StreamResult:
        """Record that the stream stands before the event which comes next."""
        head = (await self._store.heads([stream_id])).heads.get(stream_id)
        following = await self._next_event(stream_id, head)
        if following is None:
            return StreamResult(Outcome.LOST)  # Somebody else got on.
        letter = Letter(stream_id, *following, reason, error)
        held = await self._blocked.add([Block(head.stamp if head else None, letter)], retried=retried)
        return StreamResult(Outcome.BLOCKED if held else Outcome.LOST)

    async def _next_event(self, stream_id: str, head: RowHead | None) -> tuple[EventId, str] | None:
        """The first projected event after the row's position, whatever it holds.

        A row that is folded anew is stopped at its position: any event up to there may be what its new fold
        is refused for.
        """
        start = head.stamp.last_event_id if head else None
        if head and start and await self._is_folded_anew(stream_id, head):
            fields = await self._logs.entry(stream_id, start)
            event_type = (field(fields, b"type") or b"") if fields else None
            return (
                None if event_type is None else (EventId.parse(start), event_type.decode("utf-8", "replace"))
            )
        while True:
            [page] = await self._logs.read([PageRequest(stream_id, start)])
            if page.events:
                return page.events[0].id, page.events[0].type
            if page.ended or page.last_id is None:
                return None
            start = page.last_id

    async def _is_folded_anew(self, stream_id: str, head: RowHead) -> bool:
        """Whether a row is stale; those whose log was trimmed are folded on all the same."""
        if head.stamp.version >= self._projection.version:
            return False
        extents = await self._logs.extents({stream_id: None})
        return not is_trimmed(head, extents[stream_id])
