"""The commands `dead-letters list`, `show`, `retry` and `skip`."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from worker.arguments import storable
from worker.dead_letters import StoredLetter
from worker.dead_letters_screen import print_letters
from worker.dead_letters_work import choose_to_skip, find, retry_open, show_one, skip_all
from worker.events import EventId
from worker.letters import State
from worker.settings import load_settings
from worker.terminal import run_to_end

dead_letters = typer.Typer(
    name="dead-letters",
    no_args_is_help=True,
    help="Look at events that could not be applied; try them again, or skip them.",
)


def _event_id(text: str) -> EventId:
    try:
        return EventId.parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.") from None


StreamArgument = Annotated[
    str, typer.Argument(parser=storable, metavar="STREAM", help="The stream, for example chat-17.")
]
EventArgument = Annotated[
    EventId, typer.Argument(parser=_event_id, metavar="EVENT_ID", help="For example 1767312000000-0.")
]
StreamsOption = Annotated[
    list[str] | None,
    typer.Option("--stream", parser=storable, metavar="STREAM", help="Letters of this stream; repeatable."),
]
ProjectionOption = Annotated[
    str | None, typer.Option(parser=storable, metavar="NAME", help="Letters of this projection only.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dead_letters.command("list")
def list_letters(
    stream: StreamsOption = None,
    every: Annotated[bool, typer.Option("--all", help="Also passed, skipped and resolved ones.")] = False,
    projection: ProjectionOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List dead letters that are open, the oldest first: where streams are stopped.

    Example: `projection-worker dead-letters list --stream chat-17`
    """
    settings = load_settings("redis_url", "database_url")
    letters = run_to_end(find(settings, projection, stream, None if every else [State.OPEN], limit + 1))
    if not letters and not as_json:
        typer.echo("No dead letter is open." if not every else "There are no dead letters.", err=True)
        return
    print_letters(letters[:limit], as_json=as_json)
    if len(letters) > limit:
        typer.echo("There are more; give a higher --limit to see them.", err=True)


@dead_letters.command()
def show(
    stream_id: StreamArgument,
    event_id: EventArgument,
    projection: ProjectionOption = None,
    full: Annotated[bool, typer.Option("--full", help="All of the event's data, however long.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show all about one dead letter: its error, the event in the log, and what waits behind it.

    Example: `projection-worker dead-letters show chat-17 1767312000000-0`
    """
    settings = load_settings("redis_url", "database_url")
    run_to_end(show_one(settings, projection, stream_id, event_id, full=full, as_json=as_json))


@dead_letters.command()
def retry(
    stream: StreamsOption = None,
    every: Annotated[bool, typer.Option("--all", help="All that are open.")] = False,
    projection: ProjectionOption = None,
) -> None:
    """Try events again at once, for example because their handler was mended, and not after the next pause.

    Example: `projection-worker dead-letters retry --stream chat-17`
    """
    if bool(stream) == every:
        raise typer.BadParameter("Give --stream, once or several times, or --all.")
    settings = load_settings("redis_url", "database_url")
    raise typer.Exit(_complain(run_to_end(retry_open(settings, projection, stream))))


@dead_letters.command()
def skip(
    reason: Annotated[str, typer.Option(parser=storable, metavar="TEXT", help="Why; it is recorded.")],
    stream_id: Annotated[
        str | None, typer.Argument(parser=storable, metavar="STREAM", help="The stream, with EVENT_ID.")
    ] = None,
    event_id: Annotated[
        EventId | None,
        typer.Argument(parser=_event_id, metavar="EVENT_ID", help="For example 1767312000000-0."),
    ] = None,
    stream: StreamsOption = None,
    every: Annotated[bool, typer.Option("--all", help="All that are open.")] = False,
    projection: ProjectionOption = None,
    by: Annotated[
        str | None,
        typer.Option(parser=storable, metavar="NAME", help="Who decides it; the login name by default."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before skipping with --all.")] = False,
) -> None:
    """Give events up that cannot be applied, so that their streams go on without them.

    A skipped event is never applied, nor in any later rebuild. There is no way back.

    Example: `projection-worker dead-letters skip chat-17 1767312000000-0 --reason "sent twice"`
    """
    event = (stream_id, event_id) if stream_id is not None and event_id is not None else None
    if [stream_id is not None, bool(stream), every].count(True) != 1 or (stream_id and not event):
        raise typer.BadParameter("Give a stream and an event id, or --stream, or --all.")
    if not reason.strip():
        raise typer.BadParameter("The reason is empty; say why the events are given up.")
    decider = by or _login_name()
    settings = load_settings("redis_url", "database_url")
    letters, complaints = run_to_end(choose_to_skip(settings, projection, event, stream))
    if letters and every and not yes:
        _confirm(letters)
    complaints += run_to_end(skip_all(settings, letters, by=decider, because=reason))
    raise typer.Exit(_complain(complaints))


def _complain(complaints: Sequence[str]) -> int:
    """Print complaints, and tell the exit code."""
    for complaint in complaints:
        typer.echo(complaint, err=True)
    return 1 if complaints else 0


def _confirm(letters: Sequence[StoredLetter]) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("There is nobody to ask whether all of them are to be skipped; give --yes.")
    streams = len({letter.stream_id for letter in letters})
    question = f"Skip {len(letters)} events of {streams} streams? They will never be applied."
    typer.confirm(question, abort=True)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # In a container a user may well have no name.
        raise typer.BadParameter("You have no login name here; say with --by who decides this.") from None
