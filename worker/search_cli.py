"""The command `search`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from worker.app import connect
from worker.arguments import storable
from worker.loading import load_attribute
from worker.settings import Settings, load_settings
from worker.terminal import print_json, printable, run_to_end

_OFFERED_BY = "projections.stored_transcripts"


def search(
    query: Annotated[
        str,
        typer.Argument(parser=storable, metavar="WORDS", help='Words, "a phrase", or, and - before a word.'),
    ],
    stream: Annotated[
        str | None,
        typer.Option("--stream", parser=storable, metavar="STREAM", help="Only in this conversation."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many messages.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find messages by their words, best first, and show where the words stand.

    Needs the transcripts projection: WORKER_PROJECTIONS must name projections.stored_transcripts, or a
    module of your own that offers `search_messages`. Exits with 1 if nothing is found.

    Example: `projection-worker search "kinase -yeast"`
    """
    settings = load_settings("database_url")
    found = run_to_end(_search(settings, query, stream, limit))
    if as_json:
        print_json(found)
    else:
        for message in found:
            place = f"{message['stream_id']}  {message['position']}  {message['role']}"
            typer.echo(f"{printable(place)}  {message['timestamp'] or ''}")
            typer.echo(f"    {printable(' '.join(message['snippet'].split()))}")
    raise typer.Exit(0 if found else 1)


async def _search(settings: Settings, query: str, stream_id: str | None, limit: int) -> list[dict[str, Any]]:
    search_messages = load_attribute(settings.projections, "search_messages", offered_by=_OFFERED_BY)
    async with connect(settings) as servers, servers.engine.connect() as connection:
        found = await search_messages(connection, query, limit=limit, stream_id=stream_id)
    return [
        {
            "stream_id": message.stream_id,
            "position": message.position,
            "role": message.role,
            "timestamp": message.timestamp.isoformat() if message.timestamp else None,
            "snippet": message.snippet,
        }
        for message in found
    ]
