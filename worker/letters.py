"""Dead letters: events that a projection could not apply, as the table `dead_letters` keeps them.

A letter is unique by projection, stream and event. Its state says what follows from it:

- ``passed``: the event can never be applied, or its handler raised and the projection passes such events
  over; it moved its row's position and nothing else. For the record. A newer version applies it anew.
- ``open``: the event could not be applied now, and its stream stands before it until somebody helps.
- ``skipped``: an operator decided that the event is not to be applied. Every fold heeds that, for ever.
- ``resolved``: the event was open, and was applied later, is gone, or its stream now stands before another.

An open letter of another version of the projection than the running one is stale: nothing follows from it.
So is one for an event at or before its row's position, unless the row is of an older version than the letter.
A stream has one open letter at most.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import DateTime, Index, Integer, MetaData, Text, func, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from worker.events import EventId, is_event_id
from worker.fold import HandlerFailure, Rejection
from worker.poison import error_text

_MAX_ERROR_CHARACTERS = 8_000


class Reason(StrEnum):
    """Why an event is a dead letter. The first two can never be applied, whatever is mended later."""

    UNDECODABLE = "undecodable"
    REJECTED = "rejected"
    HANDLER_FAILED = "handler_failed"
    ROW_REFUSED = "row_refused"
    KILLS_THE_WORKER = "kills_the_worker"


class State(StrEnum):
    """What follows from a letter; see above."""

    PASSED = "passed"
    OPEN = "open"
    SKIPPED = "skipped"
    RESOLVED = "resolved"


class WorkerTables(DeclarativeBase):
    """The metadata of the tables that belong to the worker and not to a projection."""

    metadata = MetaData()


class DeadLetter(WorkerTables):
    """A row of the table. Times are the database's; ``retry_at`` null means: only when somebody asks."""

    __tablename__ = "dead_letters"

    projection: Mapped[str] = mapped_column(Text, primary_key=True)
    stream_id: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    event_id: Mapped[str] = mapped_column(Text, primary_key=True)
    event_type: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    error: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(Integer, server_default="1")
    first_at: Mapped[Any] = mapped_column(DateTime(timezone=True), server_default=func.now())
    last_at: Mapped[Any] = mapped_column(DateTime(timezone=True), server_default=func.now())
    retry_at: Mapped[Any | None] = mapped_column(DateTime(timezone=True))
    settled_at: Mapped[Any | None] = mapped_column(DateTime(timezone=True))
    skipped_by: Mapped[str | None] = mapped_column(Text)
    skipped_because: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        Index(
            "ix_dead_letters_heeded",
            "projection",
            "stream_id",
            postgresql_where=text("state IN ('open', 'skipped')"),
        ),
    )


@dataclass(frozen=True, slots=True)
class Letter:
    """What a pass has to say of an event that it could not apply."""

    stream_id: str
    event_id: EventId
    event_type: str
    reason: Reason
    error: str


def letters_of(stream_id: str, rejections: Sequence[Rejection]) -> tuple[Letter, ...]:
    """The letters for events that a fold passed over."""
    return tuple(
        Letter(stream_id, r.event_id, r.type, _reason(r), r.raised if r.raised is not None else r.reason)
        for r in rejections
    )


def _reason(rejection: Rejection) -> Reason:
    if rejection.raised is not None:
        return Reason.HANDLER_FAILED
    return Reason.REJECTED if rejection.decoded else Reason.UNDECODABLE


def letter_of(stream_id: str, failure: HandlerFailure) -> Letter:
    """The letter for the event at which a fold ended."""
    return Letter(stream_id, failure.event_id, failure.type, Reason.HANDLER_FAILED, error_text(failure.error))


@dataclass(frozen=True, slots=True)
class OpenLetter:
    """Where a stream is stopped. ``due`` says that it is time to try again."""

    event_id: EventId
    version: int
    due: bool


def stops(event_id: EventId, version: int, *, running: int, position: str | None, row_version: int) -> bool:
    """Whether an open letter stops a stream whose row stands there, for who runs this version; see above.

    Of a row without a position it does not matter which version it has.
    """
    if version != running:
        return False
    if position is None or not is_event_id(position) or row_version < version:
        return True
    return event_id > EventId.parse(position)


@dataclass(frozen=True, slots=True)
class Heeded:
    """What a fold of a stream has to heed: the event it is stopped at, and those that operators skipped."""

    open: OpenLetter | None = None
    skipped: frozenset[EventId] = field(default_factory=frozenset)


NOTHING_TO_HEED = Heeded()


async def heeded(
    connection: AsyncConnection, projection: str, stream_ids: Collection[str]
) -> dict[str, Heeded]:
    """The letters to heed of each stream that has any.

    Read them after the rows: skipping raises the row's generation, so whoever read the rows before it loses
    its comparison, whatever it knows of the letters.
    """
    rows = await connection.exec_driver_sql(_HEEDED, (projection, list(stream_ids)))
    opened: dict[str, OpenLetter] = {}
    passed_over: dict[str, set[EventId]] = {}
    for row in rows:
        stream_id, event_id, state, version, due = tuple(row)
        if state == State.SKIPPED:
            passed_over.setdefault(stream_id, set()).add(EventId.parse(event_id))
            continue
        letter = OpenLetter(EventId.parse(event_id), version, due)
        if stream_id not in opened or letter.event_id > opened[stream_id].event_id:
            opened[stream_id] = letter  # An earlier one would be stale.
    return {
        stream_id: Heeded(opened.get(stream_id), frozenset(passed_over.get(stream_id, ())))
        for stream_id in opened.keys() | passed_over.keys()
    }


async def skipped(connection: AsyncConnection, projection: str) -> dict[str, set[EventId]]:
    """All events that operators skipped, by stream."""
    events: dict[str, set[EventId]] = {}
    for row in await connection.exec_driver_sql(_SKIPPED, (projection,)):
        stream_id, event_id = tuple(row)
        events.setdefault(stream_id, set()).add(EventId.parse(event_id))
    return events


async def record_passed(
    connection: AsyncConnection, projection: str, version: int, letters: Sequence[Letter]
) -> None:
    """Record events that were passed over, in the transaction that moves their rows.

    Known ones stay, but for what a newer version says of them.
    """
    if letters:
        await connection.exec_driver_sql(_RECORD_PASSED, (projection, version, *_columns(letters)))


async def record_open(
    connection: AsyncConnection, projection: str, version: int, letters: Sequence[Letter], *, retried: bool
) -> None:
    """Record where streams are stopped; again, if it is known, with one more attempt and a longer pause.

    Without ``retried`` they are tried again only when somebody asks. What an operator skipped stays skipped.
    Other open letters of these streams are settled: a row that was folded anew, or a log that was changed,
    may stop a stream before another event than it did.
    """
    if letters:
        columns = _columns(letters)
        await connection.exec_driver_sql(_RESOLVE_OTHERS, (projection, *columns[:2]))
        await connection.exec_driver_sql(_RECORD_OPEN, (projection, version, *columns, retried))


async def resolve(
    connection: AsyncConnection, projection: str, version: int, positions: Mapping[str, str]
) -> None:
    """Settle the open letters of streams for events at or before these: their rows have moved there.

    Not those of a newer version than the one that moved them: it may fail at what this one applies.
    """
    if positions:
        values = list(positions), list(positions.values())
        await connection.exec_driver_sql(_RESOLVE, (projection, version, *values))


async def settle_unpassed(
    connection: AsyncConnection, projection: str, passed: Mapping[str, Sequence[Letter]]
) -> None:
    """Settle what streams that were folded anew had passed over, but for what they passed over this time."""
    kept = [letter for letters in passed.values() for letter in letters]
    values = [letter.stream_id for letter in kept], [str(letter.event_id) for letter in kept]
    await connection.exec_driver_sql(_SETTLE_UNPASSED, (projection, list(passed), *values))


def _columns(letters: Sequence[Letter]) -> tuple[list[str], ...]:
    return (
        [letter.stream_id for letter in letters],
        [str(letter.event_id) for letter in letters],
        [letter.event_type for letter in letters],
        [letter.reason.value for letter in letters],
        [_storable(letter.error) for letter in letters],
    )


def _storable(error: str) -> str:
    """Text as PostgreSQL takes it, of bounded length: the end of a traceback says the most."""
    kept = error[-_MAX_ERROR_CHARACTERS:].replace("\0", "\ufffd")
    return kept.encode("utf-8", "replace").decode()


_HEEDED = """
    SELECT stream_id, event_id, state, version, coalesce(retry_at <= now(), false)
    FROM dead_letters
    WHERE projection = $1 AND stream_id = ANY($2::text[]) AND state IN ('open', 'skipped')"""

_SKIPPED = "SELECT stream_id, event_id FROM dead_letters WHERE projection = $1 AND state = 'skipped'"

_RECORD_PASSED = """
    INSERT INTO dead_letters AS l
        (projection, version, state, stream_id, event_id, event_type, reason, error)
    SELECT $1, $2, 'passed', * FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
    ON CONFLICT (projection, stream_id, event_id) DO UPDATE
    SET version = excluded.version, state = 'passed', reason = excluded.reason, error = excluded.error,
        last_at = now(), retry_at = NULL
    WHERE l.state IN ('open', 'resolved') OR l.state = 'passed' AND l.version < excluded.version"""

# The pauses: 5 s, doubled after every attempt, up to an hour; a little at random, so that streams which
# failed together are not tried together for ever.
_AS_BEFORE = "l.state = 'open' AND l.version = excluded.version"
_RECORD_OPEN = f"""
    INSERT INTO dead_letters AS l
        (projection, version, state, stream_id, event_id, event_type, reason, error, retry_at)
    SELECT $1, $2, 'open', *, CASE WHEN $8 THEN now() + interval '5 s' * (1 + random() / 4) END
    FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
    ON CONFLICT (projection, stream_id, event_id) DO UPDATE
    SET version = excluded.version, state = 'open', event_type = excluded.event_type,
        reason = excluded.reason, error = excluded.error, last_at = now(), settled_at = NULL,
        attempts = 1 + CASE WHEN {_AS_BEFORE} THEN l.attempts ELSE 0 END,
        first_at = CASE WHEN l.state = 'open' THEN l.first_at ELSE now() END,
        retry_at = CASE WHEN $8 THEN now() + (1 + random() / 4) * least(interval '1 hour',
            interval '5 s' * power(2, CASE WHEN {_AS_BEFORE} THEN least(l.attempts, 20) ELSE 0 END)) END
    WHERE l.state <> 'skipped'"""

_RESOLVE = """
    UPDATE dead_letters AS l SET state = 'resolved', settled_at = now(), retry_at = NULL
    FROM unnest($3::text[], $4::text[]) AS moved(stream_id, position)
    WHERE l.projection = $1 AND l.stream_id = moved.stream_id COLLATE "C" AND l.state = 'open'
      AND l.version <= $2
      AND (split_part(l.event_id, '-', 1)::numeric, split_part(l.event_id, '-', 2)::numeric)
       <= (split_part(moved.position, '-', 1)::numeric, split_part(moved.position, '-', 2)::numeric)"""

_RESOLVE_OTHERS = """
    UPDATE dead_letters AS l SET state = 'resolved', settled_at = now(), retry_at = NULL
    FROM unnest($2::text[], $3::text[]) AS stopped(stream_id, event_id)
    WHERE l.projection = $1 AND l.stream_id = stopped.stream_id COLLATE "C" AND l.state = 'open'
      AND l.event_id <> stopped.event_id"""

_SETTLE_UNPASSED = """
    UPDATE dead_letters AS l SET state = 'resolved', settled_at = now()
    WHERE l.projection = $1 AND l.stream_id = ANY($2::text[]) AND l.state = 'passed'
      AND NOT EXISTS (
          SELECT FROM unnest($3::text[], $4::text[]) AS kept(stream_id, event_id)
          WHERE kept.stream_id = l.stream_id COLLATE "default" AND kept.event_id = l.event_id)"""
