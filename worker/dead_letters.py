"""What operators do with dead letters: look at them, have them tried again, skip their events.

Applications may call these functions, too, with any engine of asyncpg. After `retry_letters` and
`skip_letter` call `worker.hinting.hint_streams`, so that workers learn of it at once; without it they find
out by themselves, within about a sweep.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from worker.application import read_committed
from worker.errors import LetterRefusedError
from worker.events import EventId
from worker.letters import Reason, State
from worker.projection import Projection
from worker.table import Stamp, Table
from worker.transaction import writing


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter as the table has it; see `worker.letters`. Times are in UTC.

    ``retry_at`` None means: only when somebody asks. ``reason`` is a `worker.letters.Reason`, or one that
    only a newer worker knows.
    """

    projection: str
    stream_id: str
    event_id: EventId
    event_type: str
    version: int
    state: State
    reason: str
    error: str
    attempts: int
    first_at: datetime
    last_at: datetime
    retry_at: datetime | None
    settled_at: datetime | None
    skipped_by: str | None
    skipped_because: str | None


@dataclass(frozen=True, slots=True)
class LetterCounts:
    """How many streams of a projection are blocked, and how many of its events were passed over and skipped.

    ``blocked_since`` is when the first of these streams was stopped, in Unix seconds; None where none is.
    ``by_reason`` counts the events that stop streams and those that were passed over.
    """

    blocked: int
    blocked_since: float | None
    passed: int
    skipped: int
    by_reason: dict[str, int] = field(default_factory=dict)


async def find_letters(
    engine: AsyncEngine,
    *,
    projection: str | None = None,
    stream_ids: Collection[str] | None = None,
    event_id: EventId | None = None,
    states: Collection[State] | None = None,
    limit: int | None = None,
) -> list[StoredLetter]:
    """The letters that all of this applies to, the oldest first; None applies to all."""
    parameters = (
        projection,
        list(stream_ids) if stream_ids is not None else None,
        str(event_id) if event_id is not None else None,
        [state.value for state in states] if states is not None else None,
        limit,
    )
    async with engine.connect() as connection:
        return [_letter(tuple(row)) for row in await connection.exec_driver_sql(_FIND, parameters)]


async def count_letters(engine: AsyncEngine, projection: Projection) -> LetterCounts:
    """Count a projection's letters; streams that an older version of it was stopped at are not blocked."""
    async with engine.connect() as connection:
        rows = await connection.exec_driver_sql(_COUNT, (projection.name, projection.version))
        blocked, since, passed, skipped = tuple(rows.one())
        reasons = await connection.exec_driver_sql(_COUNT_REASONS, (projection.name, projection.version))
        return LetterCounts(blocked, since, passed, skipped, dict(map(tuple, reasons)))


async def retry_letters(engine: AsyncEngine, letters: Collection[StoredLetter]) -> list[StoredLetter]:
    """Have these letters tried again now; those of them that are still open, and so will be."""
    retried = []
    for letter in letters:
        # One transaction each, which never waits for a second lock: a worker may lock several letters in
        # another order. If the process dies in between, those before are due, the others as they were.
        key = (letter.projection, letter.stream_id, str(letter.event_id))
        async with writing(read_committed(engine)) as connection:
            if (await connection.exec_driver_sql(_RETRY, key)).rowcount:
                retried.append(letter)
    return retried


async def skip_letter(
    engine: AsyncEngine, projection: Projection, stream_id: str, event_id: EventId, *, by: str, because: str
) -> None:
    """Decide that an event is not to be applied, now or in any later fold. There is no way back.

    The letter must be open. Workers then move the row past the event. Raises LetterRefusedError, and changes
    nothing, where there is no such letter or its event was passed, skipped or applied meanwhile.
    """
    table = Table(projection, engine.dialect)
    async with writing(read_committed(engine)) as connection:
        # The fence comes first. It locks the row, or makes it and so locks it. Whoever loaded it before loses
        # the comparison, whoever loads it after our commit sees the skip. Workers, too, lock rows before
        # letters, so none waits for a row that we hold while we wait for its letter.
        await table.fence(connection, stream_id)
        # A second operator waits at the fence for the first to commit and then finds the letter skipped. A
        # worker that was writing the row has committed by now, and this reads where it has moved the row.
        stamp = (await table.lock(connection, [stream_id])).get(stream_id)
        letter = await _lock_letter(connection, projection.name, stream_id, event_id)
        # Refusals roll the fence back.
        if letter is None:
            raise LetterRefusedError(
                f"Event {event_id} of stream {stream_id!r} is no dead letter of projection {projection.name}."
            )
        if letter.state is not State.OPEN:
            raise LetterRefusedError(why_not(letter))
        if stamp is None:
            raise LetterRefusedError(f"The row of stream {stream_id!r} was deleted just now; try again.")
        if _has_passed(stamp, event_id) and stamp.version >= letter.version:
            raise LetterRefusedError(f"Event {event_id} of stream {stream_id!r} was applied meanwhile.")
        await connection.exec_driver_sql(_SKIP, (projection.name, stream_id, str(event_id), by, because))
    # If the process dies before the commit, nothing has happened. If it dies after it, the skip stands, and
    # only the hint is missing.


def why_not(letter: StoredLetter) -> str:
    """Why a letter that is not open can be neither retried nor skipped, as a sentence."""
    event = f"Event {letter.event_id} of stream {letter.stream_id!r}"
    if letter.state is State.SKIPPED:
        return f"{event} is skipped already, by {letter.skipped_by!r}: {letter.skipped_because!r}."
    if letter.state is State.RESOLVED:
        return f"{event} was applied meanwhile."
    if letter.reason == Reason.HANDLER_FAILED:
        return (
            f"{event} was passed over, since its handler raised and its projection has poison='pass'; to "
            "have it applied, mend the handler and raise the projection's version."
        )
    return (
        f"{event} was passed over and its stream has gone on; if the handler was wrong to reject it, mend it "
        "and raise the projection's version."
    )


def _has_passed(stamp: Stamp, event_id: EventId) -> bool:
    return stamp.last_event_id is not None and EventId.parse(stamp.last_event_id) >= event_id


async def _lock_letter(
    connection: AsyncConnection, projection: str, stream_id: str, event_id: EventId
) -> StoredLetter | None:
    row = (await connection.exec_driver_sql(_LOCK, (projection, stream_id, str(event_id)))).one_or_none()
    return _letter(tuple(row)) if row else None


def _letter(row: tuple[Any, ...]) -> StoredLetter:
    values = dict(zip(_COLUMNS, row, strict=True))
    return StoredLetter(
        **{**values, "event_id": EventId.parse(values["event_id"]), "state": State(values["state"])}
    )


_COLUMNS = tuple(field.name for field in fields(StoredLetter))

_FIND = f"""
    SELECT {", ".join(_COLUMNS)} FROM dead_letters
    WHERE ($1::text IS NULL OR projection = $1) AND ($2::text[] IS NULL OR stream_id = ANY($2))
      AND ($3::text IS NULL OR event_id = $3) AND ($4::text[] IS NULL OR state = ANY($4))
    ORDER BY first_at, projection, stream_id,
             split_part(event_id, '-', 1)::numeric, split_part(event_id, '-', 2)::numeric
    LIMIT $5::bigint"""

_COUNT = """
    SELECT count(DISTINCT stream_id) FILTER (WHERE state = 'open' AND version = $2),
           extract(epoch FROM min(first_at) FILTER (WHERE state = 'open' AND version = $2))::float8,
           count(*) FILTER (WHERE state = 'passed'), count(*) FILTER (WHERE state = 'skipped')
    FROM dead_letters WHERE projection = $1"""

_COUNT_REASONS = """
    SELECT reason, count(*) FROM dead_letters
    WHERE projection = $1 AND (state = 'passed' OR state = 'open' AND version = $2)
    GROUP BY reason ORDER BY reason"""
_RETRY = """
    UPDATE dead_letters SET retry_at = now()
    WHERE projection = $1 AND stream_id = $2 AND event_id = $3 AND state = 'open'"""

_LOCK = f"""
    SELECT {", ".join(_COLUMNS)} FROM dead_letters
    WHERE projection = $1 AND stream_id = $2 AND event_id = $3 FOR UPDATE"""

_SKIP = """
    UPDATE dead_letters
    SET state = 'skipped', settled_at = now(), retry_at = NULL, skipped_by = $4, skipped_because = $5
    WHERE projection = $1 AND stream_id = $2 AND event_id = $3"""
