"""What the command `show` does once its arguments are parsed: connect, look, print.

Each of these tells whether there was something to show.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import typer
from sqlalchemy.ext.asyncio import AsyncEngine

from worker.app import connect, make_log
from worker.arguments import chosen_projection
from worker.changes import Change
from worker.events import EventId
from worker.log import Log
from worker.log_scan import LogScan
from worker.migrate import check_schema
from worker.past import Loss, Past, row_changes
from worker.projection import Projection
from worker.retelling import HistoryEntry
from worker.settings import Settings
from worker.show_screen import print_difference, print_entry, print_past_row, print_view
from worker.standing import Standing, look_at_stream
from worker.store import Store
from worker.terminal import print_unknown, printable


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be looked at, and how it is to be told; ``projection`` None stands for the only one."""

    settings: Settings
    projection: str | None
    stream_id: str
    accept_loss: bool = False
    full: bool = False
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class HistoryChoice:
    """Which part of a history: changes of some columns, none for all, and how many events at either end."""

    columns: Collection[str] = ()
    first: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True)
class _Reach:
    """The projection that is meant, with what it takes to look."""

    projection: Projection
    logs: Log
    engine: AsyncEngine
    past: Past


@asynccontextmanager
async def _reach(look: Look, columns: Collection[str] = ()) -> AsyncIterator[_Reach]:
    projection = chosen_projection(look.settings, look.projection)
    _check_columns(projection, columns)
    async with connect(look.settings) as servers:
        await check_schema(servers.engine, look.settings.projections, [projection])
        logs = make_log(look.settings, servers.redis, projection)
        past = Past(projection, logs, servers.engine)
        yield _Reach(projection, logs, servers.engine, past)


def _check_columns(projection: Projection, columns: Collection[str]) -> None:
    known = [*projection.columns, *(projection.rule.reader().columns("") if projection.rule else ())]
    if unknown := sorted(set(columns) - set(known)):
        raise typer.BadParameter(
            f"Projection {projection.name} does not change a column {unknown[0]!r}; those that it does are "
            f"{', '.join(known)}."
        )


async def show_now(look: Look) -> bool:
    """Print how the stream stands."""
    async with _reach(look) as reach:
        view = await look_at_stream(reach.projection, reach.logs, reach.engine, look.stream_id)
    known = view.standing is not Standing.UNKNOWN
    if known or look.as_json:
        print_view(view, full=look.full, as_json=look.as_json)
    else:
        _complain_of_nothing(look)
    return known


async def show_row_at(look: Look, point: EventId) -> bool:
    """Print the row as it was."""
    async with _reach(look) as reach:
        if not await _is_known(look, reach):
            return False
        row = await reach.past.row_at(look.stream_id, point, accept_loss=look.accept_loss)
    _warn(row.loss)
    print_past_row(row, full=look.full, as_json=look.as_json)
    return True


async def show_difference(look: Look, one: EventId, other: EventId, columns: Collection[str]) -> bool:
    """Print what changed between two points."""
    async with _reach(look, columns) as reach:
        if not await _is_known(look, reach):
            return False
        before, after = [
            await reach.past.row_at(look.stream_id, point, accept_loss=look.accept_loss)
            for point in (one, other)
        ]
    _warn(after.loss)
    changes = _of_columns(row_changes(before, after), columns)
    print_difference(before, after, changes, full=look.full, as_json=look.as_json)
    return True


async def show_history(look: Look, choice: HistoryChoice) -> bool:
    """Print each event that changed a column; what has been told stays told if the rest cannot be read."""
    async with _reach(look, choice.columns) as reach:
        if not await _is_known(look, reach):
            return False
        _warn(await reach.past.loss(look.stream_id))
        shown = 0
        async for entry in _chosen(reach.past.history(look.stream_id, accept_loss=True), choice):
            print_entry(entry, look.stream_id, full=look.full, as_json=look.as_json)
            shown += 1
    if not shown and not look.as_json:
        typer.echo("No event changed anything.", err=True)
    return True


async def _chosen(entries: AsyncIterator[HistoryEntry], choice: HistoryChoice) -> AsyncIterator[HistoryEntry]:
    """At most ``last`` entries are kept in memory, or none."""
    ending: deque[HistoryEntry] = deque(maxlen=choice.last)
    shown = 0
    async for entry in entries:
        changes = _of_columns(entry.changes, choice.columns)
        if not changes and not entry.failure:
            continue
        if choice.last is not None:
            ending.append(replace(entry, changes=changes))
            continue
        yield replace(entry, changes=changes)
        shown += 1
        if shown == choice.first:
            return
    for entry in ending:
        yield entry


def _of_columns(changes: tuple[Change, ...], columns: Collection[str]) -> tuple[Change, ...]:
    return tuple(change for change in changes if not columns or change.column in columns)


async def _is_known(look: Look, reach: _Reach) -> bool:
    """Whether there is a log or a row; else it is said that there is neither."""
    [last_id] = await LogScan(reach.logs.redis, reach.logs.keys).last_ids([look.stream_id])
    if last_id is not None or await Store(reach.engine, reach.projection).stamps([look.stream_id]):
        return True
    _complain_of_nothing(look)
    return False


def _complain_of_nothing(look: Look) -> None:
    print_unknown([look.stream_id])


def _warn(loss: Loss | None) -> None:
    if loss:
        typer.echo(printable(f"{loss} What is told may be wrong: it begins there with a new row."), err=True)
