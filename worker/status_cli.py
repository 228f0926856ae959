"""`projection-worker status`: its options."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.settings import load_settings
from worker.slowest_screen import show_slowest
from worker.status_screen import show_status, watch_status
from worker.terminal import run_to_end


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, with throughput, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    slowest: Annotated[
        int | None,
        typer.Option(min=1, max=1_000, help="Show so many streams instead: those furthest behind, by name."),
    ] = None,
) -> None:
    """Show replicas, lag, pending hints, rows and throughput; or the streams that are furthest behind.

    Exits with 1 if no replica is alive, or one is not ready. `--slowest` looks at the end of every log, and
    tells of each stream that is behind why (behind, blocked, diverged, log gone), by how much, and how many
    events wait; `show` tells more of one of them.

    Example: `projection-worker status --slowest 10`
    """
    if slowest is not None and watch:
        raise typer.BadParameter("Give --slowest without --watch.")
    settings = load_settings("redis_url", "database_url")
    if slowest is not None:
        run_to_end(show_slowest(settings, slowest, as_json=as_json))
        return
    look = run_to_end(
        watch_status(settings, every, as_json=as_json) if watch else show_status(settings, as_json=as_json)
    )
    raise typer.Exit(0 if look else 1)
