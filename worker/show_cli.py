"""The command `show`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from worker.arguments import storable
from worker.events import EventId
from worker.moments import parse_moment
from worker.settings import load_settings
from worker.show_work import HistoryChoice, Look, show_difference, show_history, show_now, show_row_at
from worker.terminal import run_to_end

_POINT = "An event id, its milliseconds, a time such as 2026-01-02T10:30 (in UTC), -5m, start or now."


def show(
    stream_id: Annotated[
        str, typer.Argument(parser=storable, metavar="STREAM", help="The stream, for example chat-17.")
    ],
    at: Annotated[
        str | None, typer.Option(metavar="POINT", help=f"The row as it was after this point. {_POINT}")
    ] = None,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="POINT POINT", help="What changed between two points."),
    ] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Each event that changed a column, with the change.")
    ] = False,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Changes of this column only; repeatable."),
    ] = None,
    first: Annotated[
        int | None, typer.Option(min=1, help="Of the history, only so many events at its beginning.")
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Or so many at its end.")] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Fold what is left of a log whose beginning is gone.")
    ] = False,
    projection: Annotated[
        str | None, typer.Option(parser=storable, metavar="NAME", help="Which, if there are several.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="All of each value, however long.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; of a history, one object a line.")
    ] = False,
) -> None:
    """Show how a stream stands: its row, position, lag and version, and whether it is blocked or diverged.

    Or look into its past: with `--at`, `--diff` or `--history`, its log is folded again in memory. Exits with
    1 if there is neither a row nor a log, or the log no longer holds what it takes.

    Example: `projection-worker show chat-17 --diff -2h now`
    """
    if [at is not None, diff is not None, history].count(True) > 1:
        raise typer.BadParameter("Give one of --at, --diff and --history.")
    if (first is not None or last is not None) and not history:
        raise typer.BadParameter("--first and --last say how much of a --history is shown; give that, too.")
    if first is not None and last is not None:
        raise typer.BadParameter("Give either --first or --last.")
    if column and not (history or diff):
        raise typer.BadParameter("--column chooses among changes; give --history or --diff, too.")
    points = [_point(text) for text in ([at] if at is not None else diff or ())]
    look = Look(
        load_settings("redis_url", "database_url"),
        projection,
        stream_id,
        accept_loss=accept_loss,
        full=full,
        as_json=as_json,
    )
    columns = frozenset(column or ())
    if diff is not None:
        shown = run_to_end(show_difference(look, points[0], points[1], columns))
    elif at is not None:
        shown = run_to_end(show_row_at(look, points[0]))
    elif history:
        shown = run_to_end(show_history(look, HistoryChoice(columns, first, last)))
    else:
        shown = run_to_end(show_now(look))
    raise typer.Exit(0 if shown else 1)


def _point(text: str) -> EventId:
    try:
        return parse_moment(text, datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
