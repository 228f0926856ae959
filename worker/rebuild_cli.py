"""The command `rebuild`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

from worker.arguments import chosen_projection, storable
from worker.logconfig import configure_logging
from worker.projection import Projection
from worker.prune_work import find_prunable, prune
from worker.rebuild_dry_run import look_only
from worker.rebuild_reach import RebuildOptions
from worker.rebuild_screen import print_pruned
from worker.rebuild_work import rebuild as rebuild_rows
from worker.scope import Scope
from worker.settings import Settings, load_settings
from worker.terminal import counted, run_until_stopped


def rebuild(
    stream: Annotated[
        list[str] | None,
        typer.Option(
            "--stream",
            parser=storable,
            metavar="STREAM",
            help="This stream, also if its last events were deleted on purpose; repeatable.",
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(parser=storable, metavar="SQL", help="Streams whose row this condition is true of."),
    ] = None,
    stale: Annotated[bool, typer.Option("--stale", help="Rows of older versions only.")] = False,
    projection: Annotated[
        str | None, typer.Option(parser=storable, metavar="NAME", help="Which, if there are several.")
    ] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Take logs as they are, whatever they have lost.")
    ] = False,
    prune_rows: Annotated[
        bool, typer.Option("--prune", help="Remove rows whose log does not exist, and rebuild nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before removing rows.")] = False,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, max=1e6, metavar="STREAMS", help="At most so many streams a second."),
    ] = None,
    yields: Annotated[
        bool, typer.Option("--yield/--no-yield", help="Work less while live projection is behind.")
    ] = True,
    restart: Annotated[
        bool, typer.Option("--restart", help="Give up a rebuild that is not finished, and begin anew.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; print what would change.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Tell of at most so many refused streams.")] = 100,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one object a line, the report last.")
    ] = False,
) -> None:
    """Fold streams again from the start of their logs, and replace each row in one step.

    Live projection and readers go on meanwhile. A rebuild that was killed or stopped goes on where it was
    when the same command is given again; started several times, the processes share it. Streams whose log
    has lost something are not rebuilt but listed, with the reason. Exits with 1 if there are any, or if it
    was stopped.

    Example: `projection-worker rebuild --stale`
    """
    if stream and (where is not None or stale or restart):
        raise typer.BadParameter(
            "--stream names all there is to do; give it without --where, --stale, --restart."
        )
    if prune_rows and restart:
        raise typer.BadParameter("--prune rebuilds nothing; give it without --restart.")
    if yes and not prune_rows:
        raise typer.BadParameter("--yes is about --prune alone.")
    settings = load_settings("redis_url", "database_url")
    chosen = chosen_projection(settings, projection)
    configure_logging(settings.log_levels, settings.log_format)
    options = RebuildOptions(
        scope=Scope(where, stale, accept_loss),
        stream_ids=list(dict.fromkeys(stream or ())),
        rate=rate,
        yields=yields,
        restart=restart,
        limit=limit,
        as_json=as_json,
    )
    if prune_rows:
        raise typer.Exit(_prune(settings, chosen, options, yes=yes, dry_run=dry_run))
    work = look_only if dry_run else rebuild_rows
    raise typer.Exit(0 if run_until_stopped(partial(work, settings, chosen, options)) else 1)


def _prune(
    settings: Settings, projection: Projection, options: RebuildOptions, *, yes: bool, dry_run: bool
) -> int:
    """List, ask, remove; the exit code."""
    stream_ids = run_until_stopped(partial(find_prunable, settings, projection, options))
    if stream_ids is None:
        return 1
    if dry_run or not stream_ids:
        if options.as_json:
            print_pruned(stream_ids, [], as_json=True)
        return 0
    if not yes:
        _confirm(stream_ids)
    return 0 if run_until_stopped(partial(prune, settings, projection, options, stream_ids)) else 1


def _confirm(stream_ids: Sequence[str]) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("There is nobody to ask whether these rows are to be removed; give --yes.")
    typer.confirm(f"Remove {counted(len(stream_ids), 'row')} for ever?", abort=True)
