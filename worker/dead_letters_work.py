"""What the commands `dead-letters ...` do once their arguments are parsed: connect, act, print.

What goes wrong with single letters or streams is returned as complaints, so that the others are still done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import typer
from redis.exceptions import RedisError

from worker.app import Servers, connect, make_log
from worker.dead_letters import StoredLetter, find_letters, retry_letters, skip_letter
from worker.dead_letters_screen import print_inspection
from worker.errors import DeclarationError, LetterRefusedError
from worker.events import EventId
from worker.hinting import hint_streams
from worker.inspection import inspect_letter
from worker.letter_choice import asked_in_vain, check_unambiguous, letter_of_event, open_letter_of_event
from worker.letters import State
from worker.loading import load_projections
from worker.migrate import check_schema
from worker.projection import Projection
from worker.settings import Settings
from worker.store import Store
from worker.terminal import printable
from worker.trouble import describe

_OPEN = (State.OPEN,)


@asynccontextmanager
async def _servers(settings: Settings) -> AsyncIterator[Servers]:
    async with connect(settings) as servers:
        await check_schema(servers.engine)
        yield servers


async def find(
    settings: Settings,
    projection: str | None,
    streams: Collection[str] | None,
    states: Collection[State] | None,
    limit: int | None = None,
) -> list[StoredLetter]:
    """The letters that all of this applies to, the oldest first; no streams stands for all."""
    async with _servers(settings) as servers:
        return await find_letters(
            servers.engine, projection=projection, stream_ids=streams or None, states=states, limit=limit
        )


async def show_one(
    settings: Settings,
    projection: str | None,
    stream_id: str,
    event_id: EventId,
    *,
    full: bool,
    as_json: bool,
) -> None:
    """Print all about one letter."""
    async with _servers(settings) as servers:
        letter = await letter_of_event(servers.engine, projection, stream_id, event_id)
        declared = _declared(settings, letter)
        logs = make_log(settings, servers.redis, declared)
        inspection = await inspect_letter(letter, Store(servers.engine, declared), logs)
    print_inspection(inspection, full=full, as_json=as_json)


async def retry_open(
    settings: Settings, projection: str | None, streams: Collection[str] | None
) -> list[str]:
    """Have open letters tried again, print how many, and return complaints."""
    async with _servers(settings) as servers:
        letters = await find_letters(
            servers.engine, projection=projection, stream_ids=streams or None, states=_OPEN
        )
        retried = await retry_letters(servers.engine, letters)
        if retried:
            typer.echo(f"Dead letters that are tried again now: {len(retried)}.")
        complaints = await asked_in_vain(servers.engine, projection, streams, letters)
        complaints += await _hint(servers, settings, retried)
    return complaints


async def choose_to_skip(
    settings: Settings,
    projection: str | None,
    event: tuple[str, EventId] | None,
    streams: Collection[str] | None,
) -> tuple[list[StoredLetter], list[str]]:
    """The letters that are meant, and what is to be said of streams that have none."""
    async with _servers(settings) as servers:
        if event is not None:
            return [await open_letter_of_event(servers.engine, projection, *event)], []
        letters = await find_letters(
            servers.engine, projection=projection, stream_ids=streams or None, states=_OPEN
        )
        if streams:
            check_unambiguous(letters)
        return letters, await asked_in_vain(servers.engine, projection, streams, letters)


async def skip_all(
    settings: Settings, letters: Sequence[StoredLetter], *, by: str, because: str
) -> list[str]:
    """Skip one after the other, and return complaints. Whatever ends this early: what it told is done."""
    projections = {letter.projection: _declared(settings, letter) for letter in letters}
    skipped: list[StoredLetter] = []
    complaints: list[str] = []
    async with _servers(settings) as servers:
        for letter in letters:
            stream_id, event_id = letter.stream_id, letter.event_id
            projection = projections[letter.projection]
            try:
                await skip_letter(servers.engine, projection, stream_id, event_id, by=by, because=because)
            except LetterRefusedError as error:
                complaints.append(str(error))
            else:
                skipped.append(letter)
                done = f"Skipped event {event_id} of stream {stream_id!r} in {projection.name}."
                typer.echo(printable(done))
        return complaints + await _hint(servers, settings, skipped)


async def _hint(servers: Servers, settings: Settings, letters: Sequence[StoredLetter]) -> list[str]:
    """Hint at the streams of letters that were changed; a complaint if that fails."""
    try:
        await hint_streams(servers.redis, settings.keys, [letter.stream_id for letter in letters])
    except (RedisError, OSError) as error:
        return [f"The workers could not be told and will find out in a sweep. {describe(error)}"]
    return []


def _declared(settings: Settings, letter: StoredLetter) -> Projection:
    for projection in load_projections(settings.projections):
        if projection.name == letter.projection:
            return projection
    raise DeclarationError(
        f"Module {settings.projections} holds no projection {letter.projection!r}: set WORKER_PROJECTIONS to "
        "the one that does."
    )
