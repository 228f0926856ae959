"""How `status --slowest` looks: a table on a terminal, plain lines in a pipe, or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.app import connect, make_log
from worker.loading import load_projections
from worker.migrate import check_schema
from worker.settings import Settings
from worker.slowest import Slowest, SlowStream
from worker.terminal import print_json, printable

_HEADINGS = ("projection", "stream", "state", "behind by", "events to go")


async def show_slowest(settings: Settings, most: int, *, as_json: bool) -> None:
    """Print the streams of each projection that are furthest behind, the slowest first."""
    found: dict[str, list[SlowStream]] = {}
    async with connect(settings) as servers:
        await check_schema(servers.engine)
        for projection in load_projections(settings.projections):
            logs = make_log(settings, servers.redis, projection)
            slowest = Slowest(servers.redis, servers.engine, logs.keys, projection, logs)
            found[projection.name] = await slowest.find(most)
    if as_json:
        print_json([{"projection": name, "slowest": list(map(_as_dict, found[name]))} for name in found])
    else:
        _print(found)


def _as_dict(stream: SlowStream) -> dict[str, Any]:
    return {
        "stream_id": stream.stream_id,
        "standing": stream.standing,
        "position": stream.position,
        "lag_seconds": stream.lag_seconds,
        "events": stream.waiting.events if stream.waiting else None,
        "counted": stream.waiting.counted if stream.waiting else None,
    }


def _print(found: Mapping[str, Sequence[SlowStream]]) -> None:
    rows = [
        (name, printable(stream.stream_id), stream.standing, _lag(stream), _events(stream))
        for name, streams in found.items()
        for stream in streams
    ]
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        for row in rows:
            typer.echo("\t".join(row))
        return
    if not rows:
        typer.echo("No stream is behind its log.")
        return
    table = Table()
    for heading in _HEADINGS:
        numeric = heading in _HEADINGS[-2:]
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _lag(stream: SlowStream) -> str:
    return "unknown" if stream.lag_seconds is None else f"{stream.lag_seconds:,.1f} s"


def _events(stream: SlowStream) -> str:
    if stream.waiting is None:
        return "unknown"
    return f"{stream.waiting.events:,}{'' if stream.waiting.counted else ' or more'}"
