"""Which dead letters an operator means, and what to say where there is none or more than one."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import typer
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.dead_letters import StoredLetter, find_letters, why_not
from worker.errors import LetterRefusedError
from worker.events import EventId
from worker.letters import State

_SETTLED = frozenset(State) - {State.OPEN}


async def letter_of_event(
    engine: AsyncEngine, projection: str | None, stream_id: str, event_id: EventId
) -> StoredLetter:
    """The letter of an event, in whatever state."""
    return _only_one(await _letters_of_event(engine, projection, stream_id, event_id))


async def open_letter_of_event(
    engine: AsyncEngine, projection: str | None, stream_id: str, event_id: EventId
) -> StoredLetter:
    """The open letter of an event."""
    letters = await _letters_of_event(engine, projection, stream_id, event_id)
    opened = [letter for letter in letters if letter.state is State.OPEN]
    if not opened:
        raise LetterRefusedError(why_not(letters[0]))
    return _only_one(opened)


async def _letters_of_event(
    engine: AsyncEngine, projection: str | None, stream_id: str, event_id: EventId
) -> list[StoredLetter]:
    letters = await find_letters(engine, projection=projection, stream_ids=[stream_id], event_id=event_id)
    if not letters:
        raise LetterRefusedError(f"Event {event_id} of stream {stream_id!r} is no dead letter.")
    return letters


def _only_one(letters: Sequence[StoredLetter]) -> StoredLetter:
    check_unambiguous(letters)
    return letters[0]


def check_unambiguous(letters: Sequence[StoredLetter]) -> None:
    """Refuse to guess where several projections have letters of one stream."""
    for stream_id in sorted({letter.stream_id for letter in letters}):
        names = sorted({letter.projection for letter in letters if letter.stream_id == stream_id})
        if len(names) > 1:
            raise typer.BadParameter(
                f"Several projections have this dead letter of stream {stream_id!r}: say with --projection "
                f"which is meant, {' or '.join(names)}."
            )


async def asked_in_vain(
    engine: AsyncEngine,
    projection: str | None,
    streams: Collection[str] | None,
    found: Sequence[StoredLetter],
) -> list[str]:
    """A sentence for each stream of which no letter was found open; without streams, one if none was."""
    if not streams:
        return [] if found else ["No dead letter is open."]
    missing = [s for s in dict.fromkeys(streams) if s not in {letter.stream_id for letter in found}]
    settled = await find_letters(engine, projection=projection, stream_ids=missing, states=_SETTLED)
    newest = {letter.stream_id: why_not(letter) for letter in settled}
    return [f"Stream {s!r} has no open dead letter. {newest.get(s, '')}".rstrip() for s in missing]
