"""One event that somebody waits for: what its row and its log say of it, and when to look again. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

from worker.errors import NotProjectedError, ProjectionTimeoutError, StreamBlockedError, StreamDivergedError
from worker.events import EventId, is_event_id
from worker.whereabouts import LogQuestion, LogStanding, RowStanding, Stop

_FIRST_PAUSE_SECONDS = 0.02
_LOG_AFTER_SECONDS = 0.02
_LOG_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Reached:
    """The wait is over and all is well."""


REACHED = _Reached()
Answer = _Reached | BaseException


class AwaitedEvent:
    """An event, and the future that its waiter waits for.

    Row and log are looked at when the monotonic clock, in seconds, is past ``row_due`` and ``log_due``. The
    pauses between looks at the row double while nothing happens. The log is looked into when most waits are
    over, and then every second, since only trouble changes what it said.
    """

    def __init__(self, projection: str, stream_id: str, event_id: EventId) -> None:
        self.stream_id = stream_id
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.row_due = 0.0
        self.log_due = monotonic() + _LOG_AFTER_SECONDS
        self.pause = _FIRST_PAUSE_SECONDS
        self._projection = projection
        self._event_id = event_id
        self._target = event_id
        self._row: RowStanding | None = None
        self._log_from = str(event_id)
        self._out_of_log = False
        self._no_log_for: RowStanding | None = None

    @property
    def row_seen(self) -> bool:
        """Whether the row has been looked at, which says where to stop reading the log."""
        return self._row is not None

    def wake(self) -> None:
        """The stream may have moved: look now, and soon again, for a replica of the database may be late."""
        self.row_due = 0.0
        self.pause = _FIRST_PAUSE_SECONDS

    def put_off_row(self, now: float, longest_pause: float) -> None:
        """The row is being looked at."""
        self.row_due = now + min(self.pause, longest_pause)
        self.pause = min(2 * self.pause, longest_pause)

    def put_off_log(self, now: float, *, failed: bool = False) -> None:
        """The log is being looked into, or that has failed."""
        self.log_due = now + (self.pause if failed else _LOG_PAUSE_SECONDS)

    def meet_row(self, row: RowStanding) -> None:
        """Take in where the row stands, and answer if that is one."""
        self._row = row
        if row.position is not None and not is_event_id(row.position):
            self._settle(self._diverged(row.position))
            return
        position = EventId.parse(row.position) if row.position else None
        if position is not None and position >= self._target:
            self._settle(REACHED)
            return
        for stop in row.stops:
            if stop.event_id <= self._event_id:
                self._settle(self._blocked(stop))

    def question(self) -> LogQuestion:
        """What to ask the log, for the row as it was seen last."""
        return LogQuestion(self.stream_id, self._log_from, self._row.position if self._row else None)

    def meet_log(self, asked: LogQuestion, log: LogStanding | None, now: float) -> None:
        """Take in what the log said, and answer if that is one."""
        if self._row is None or self._row.position != asked.position:
            self.log_due = 0.0  # The row has moved meanwhile: what was asked is of no interest any more.
            return
        if not (log.fits if log else asked.position is None):
            self._meet_misfit(self._row, now)
            return
        self._no_log_for = None
        # Where the log has never been that far, it is not the one that the event is in, or lost its tail.
        self._out_of_log = log is None or log.last_id < self._event_id
        if log is None or self._out_of_log:
            self.log_due = now + self.pause
        elif log.last_projected is not None:
            self._target = log.last_projected
            self._log_from = str(self._event_id)
        elif log.go_on is not None:
            self._log_from = log.go_on
            self.log_due = 0.0
        else:
            self._settle(REACHED)

    def _meet_misfit(self, row: RowStanding, now: float) -> None:
        """The log does not hold the position. Believed when the row, looked at again, still stands there.

        Else it may be a stream that was deleted or rebuilt between a look at the row and one at the log.
        """
        if self._no_log_for is None or self._no_log_for.position != row.position:
            self._no_log_for = row
            self.row_due = 0.0
            self.log_due = now + _FIRST_PAUSE_SECONDS
        elif self._no_log_for is not row and row.position is not None:
            self._settle(self._diverged(row.position))
        else:
            self.log_due = now + _FIRST_PAUSE_SECONDS

    def _settle(self, answer: Answer) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)

    def timed_out(self, seconds: float, troubles: Mapping[str, str]) -> NotProjectedError:
        """The answer when the time is up. ``troubles`` say of each server what was wrong with it lately."""
        told = [
            f"Event {self._event_id} of stream {self.stream_id} was not projected by {self._projection} "
            f"within {seconds:g} s: {self._where_it_stands()}."
        ]
        told += [f"{server} could not be asked lately: {trouble}." for server, trouble in troubles.items()]
        if self._out_of_log:
            told.append(
                "The log does not reach that event: give the client and the keys that it was emitted with, "
                "or find out what Redis lost."
            )
        told.append("See `projection-worker status` for whether a worker runs and how far behind it is.")
        position = self._row.position if self._row else None
        return ProjectionTimeoutError(" ".join(told), self.stream_id, str(self._event_id), position)

    def _where_it_stands(self) -> str:
        if self._row is None:
            return "its row could not be looked at"
        if not self._row.has_row:
            return "it has no row yet"
        if self._row.position is None:
            return "its row has no position yet"
        behind = (self._event_id.ms - EventId.parse(self._row.position).ms) / 1000
        return f"its row stands at {self._row.position}, {behind:g} s before it"

    def _blocked(self, stop: Stop) -> NotProjectedError:
        return StreamBlockedError(
            f"Stream {self.stream_id} is blocked before event {stop.event_id} of type {stop.event_type} "
            f"({stop.reason}), so {self._projection} does not get to event {self._event_id}: see "
            f"`projection-worker dead-letters show {self.stream_id} {stop.event_id}`.",
            self.stream_id,
            str(self._event_id),
            self._row.position if self._row else None,
            str(stop.event_id),
            stop.reason,
        )

    def _diverged(self, position: str) -> NotProjectedError:
        return StreamDivergedError(
            f"Stream {self.stream_id} is diverged: its log does not hold {position!r}, where the row of "
            f"{self._projection} stands, so nothing is projected. Find out what Redis lost, and rebuild it.",
            self.stream_id,
            str(self._event_id),
            position,
        )
