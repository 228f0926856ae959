"""The command line: each command parses, calls what does the work, and prints.

Exit codes: 0 all is well, 1 something is wrong, 2 the command was used wrongly.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import asyncpg
import typer
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from worker import app as wiring
from worker.arguments import chosen_projections, keys_of_reader, keys_of_type, storable
from worker.batch_emit import emit_and_settle, emit_lines
from worker.check_cli import check
from worker.dead_letters_cli import dead_letters
from worker.errors import (
    EmitError,
    InvalidEventError,
    LetterRefusedError,
    PastLostError,
    ProjectionWorkerError,
)
from worker.keys import Keys
from worker.loading import load_attribute, load_modules, load_projections
from worker.logconfig import configure_logging
from worker.migrate import migrate as migrate_schema
from worker.rebuild_cli import rebuild
from worker.revision import write_revision
from worker.search_cli import search
from worker.settings import Settings, load_settings
from worker.show_cli import show
from worker.status_cli import status
from worker.terminal import print_json, run_to_end
from worker.trouble import sentence
from worker.verify_cli import verify

app = typer.Typer(
    name="projection-worker",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"auto_envvar_prefix": "PROJECTION_WORKER", "help_option_names": ["-h", "--help"]},
    help="Keeps PostgreSQL read models in step with event logs in Redis Streams.\n\n"
    "The servers are named by REDIS_URL and DATABASE_URL; the README lists the other variables.",
)

app.add_typer(dead_letters)
app.command()(verify)
app.command()(rebuild)
app.command()(show)
app.command()(check)
app.command()(search)
app.command()(status)

StreamArgument = Annotated[str, typer.Argument(help="The conversation, for example chat-17.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


ProjectionOption = Annotated[
    str | None,
    typer.Option("--projection", parser=storable, metavar="NAME", help="Whose logs, if there are several."),
]


@app.command()
def run(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", parser=storable, help="Run these projections only."),
    ] = None,
) -> None:
    """Run a worker until it is stopped.

    It runs all projections, or those that are named; others may run in other processes. SIGTERM or SIGINT
    stops it gracefully: it finishes what is in hand and hands over. A second one cancels.

    Example: `projection-worker run`
    """
    settings = load_settings("redis_url", "database_url")
    projections = chosen_projections(settings, *(names or ()))
    configure_logging(settings.log_levels, settings.log_format)
    from worker.running import run_worker  # here, since no other command should load so much

    raise typer.Exit(asyncio.run(run_worker(settings, projections)))


@app.command()
def migrate() -> None:
    """Create the tables in the database, or bring them up to date.

    Those of the modules that WORKER_PROJECTIONS names, too, where they keep migrations.

    Example: `projection-worker migrate`
    """
    settings = load_settings("database_url")
    modules = load_modules(settings.projections)
    told = migrate_schema(settings.database_url.get_secret_value(), modules)
    typer.echo(f"The database schema is at {told}.")


@app.command()
def revision(
    module: Annotated[str, typer.Argument(help="One of the modules that WORKER_PROJECTIONS names.")],
    message: Annotated[str, typer.Argument(help="What changes, in a few words.")],
) -> None:
    """Write a revision of a projections module's own tables, from what its models say.

    It goes into the folder that the module names as `migrations`. Look it through, then run `migrate`.

    Example: `projection-worker revision my_app.projections "first tables"`
    """
    settings = load_settings("database_url")
    modules = load_modules(settings.projections)
    chosen = next((known for known in modules if known.name == module), None)
    if chosen is None:
        raise typer.BadParameter(f"WORKER_PROJECTIONS is {settings.projections!r}; add {module!r} to it.")
    path = write_revision(settings.database_url.get_secret_value(), chosen, message)
    typer.echo(path or f"The tables of {module} are as its models say; nothing was written.")


@app.command()
def emit(
    stream_id: Annotated[str | None, typer.Argument(help="The conversation, for example chat-17.")] = None,
    event_type: Annotated[str | None, typer.Argument(help="For example user_message.")] = None,
    data: Annotated[str, typer.Argument(help="A JSON object.")] = "{}",
    operation_id: Annotated[str, typer.Option(help="The operation that the event belongs to.")] = "",
    from_file: Annotated[
        Path | None,
        typer.Option(allow_dash=True, help="Emit one event a line, written as JSON; - is standard input."),
    ] = None,
    projection: ProjectionOption = None,
) -> None:
    """Append an event to a log, or many from a file, and print the event ids.

    The log is one of the projections that handle such events; where these have logs of different prefixes,
    say with `--projection` whose is meant.

    A line of a file is an object with `stream_id`, `type`, and optionally `data` and `operation_id`. If Redis
    does not reply, an event with an operation id is looked for and appended once; without one the command
    ends there, since the event may stand in the log or not.

    Example: `projection-worker emit chat-17 user_message '{"content": "Hello"}'`
    """
    settings = load_settings("redis_url")
    if from_file is not None:
        if stream_id is not None:
            raise typer.BadParameter("Give either a stream id, a type and data, or --from-file.")
        run_to_end(_emit_file(settings, projection, from_file))
    elif stream_id is None or event_type is None:
        raise typer.BadParameter("Give a stream id and an event type, or --from-file.")
    else:
        keys = keys_of_type(settings, projection, event_type)
        run_to_end(_emit_one(settings, keys, stream_id, operation_id, event_type, data))


@app.command()
def messages(stream_id: StreamArgument, projection: ProjectionOption = None) -> None:
    """Print the messages of a conversation, read from its log, as JSON.

    Example: `projection-worker messages chat-17`
    """
    print_json(run_to_end(_read("read_stream_messages", projection, stream_id)))


@app.command()
def thinking(stream_id: StreamArgument, projection: ProjectionOption = None) -> None:
    """Print what the assistant is doing now, as JSON; null when it is doing nothing.

    Example: `projection-worker thinking chat-17`
    """
    print_json(run_to_end(_read("read_stream_thinking", projection, stream_id)))


async def _emit_one(
    settings: Settings, keys: Keys, stream_id: str, operation_id: str, event_type: str, data: str
) -> None:
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidEventError(f"The data are not JSON ({error}); give an object such as '{{}}'.") from None
    async with wiring.connect_redis(settings) as redis:
        types = _projected_types(settings)
        typer.echo(
            await emit_and_settle(
                redis, stream_id, operation_id, event_type, payload, projected_types=types, keys=keys
            )
        )


async def _emit_file(settings: Settings, projection: str | None, path: Path) -> None:
    types = _projected_types(settings)
    keys_of = cache(partial(keys_of_type, settings, projection))
    async with wiring.connect_redis(settings) as redis:
        with nullcontext(sys.stdin) if str(path) == "-" else path.open(encoding="utf-8") as lines:
            try:
                async for event_id in emit_lines(redis, lines, projected_types=types, keys_of=keys_of):
                    typer.echo(event_id)
            except UnicodeDecodeError as error:
                raise InvalidEventError(
                    f"The lines are not UTF-8 ({error.reason}); those whose ids were printed were emitted."
                ) from None


async def _read(reader: str, projection: str | None, stream_id: str) -> Any:
    settings = load_settings("redis_url")
    read = load_attribute(settings.projections, reader)
    keys = keys_of_reader(settings, projection, reader)
    async with wiring.connect_redis(settings) as redis:
        return await read(redis, stream_id, keys=keys)


def _projected_types(settings: Settings) -> frozenset[str]:
    return frozenset().union(*(projection.types for projection in load_projections(settings.projections)))


def main() -> None:
    """Run the command line; errors are one sentence on standard error, never a traceback."""
    try:
        app()
    except (EmitError, LetterRefusedError, PastLostError) as error:
        _fail(str(error), 1)
    except ProjectionWorkerError as error:
        _fail(str(error), 2)
    except RedisError as error:
        _fail(f"Redis, which REDIS_URL names, could not be reached or refused. {sentence(error)}", 1)
    except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            _fail(f"{error.filename}: {error.strerror}. Give the path of a file that can be read.", 2)
        _fail(f"PostgreSQL, which DATABASE_URL names, could not be reached or refused. {sentence(error)}", 1)


def _fail(told: str, code: int) -> NoReturn:
    sys.stderr.write(f"{told}\n")
    sys.exit(code)


DataDirOption = Annotated[
    Path | None,
    typer.Option(file_okay=False, help="Keep the servers' data in this folder; by default nothing is kept."),
]


@app.command()
def demo(
    replicas: Annotated[int, typer.Option(min=1, help="How many workers run, each a process.")] = 2,
    chats: Annotated[int, typer.Option(min=1, help="How many conversations are simulated.")] = 40,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long they go on.")] = 15,
    events_per_second: Annotated[float, typer.Option(min=1, help="How much is said, all in all.")] = 1_500,
    kill: Annotated[bool, typer.Option("--kill", help="Kill a worker every few seconds.")] = False,
    data_dir: DataDirOption = None,
    seed: Annotated[int, typer.Option(help="Another seed, other conversations.")] = 1,
) -> None:
    """Show workers at work, with servers of their own, and prove that every row is right.

    Starts Redis and PostgreSQL, simulates conversations, waits until all is projected, folds the logs again
    in memory and compares. Exits with 1 unless every row is right. REDIS_URL, DATABASE_URL and the
    variables that begin with WORKER_ are not looked at.

    Example: `projection-worker demo --kill`
    """
    from worker.demo import DemoOptions, run_demo  # here, since no other command should load so much

    options = DemoOptions(replicas, chats, seconds, events_per_second, kill, data_dir, seed)
    raise typer.Exit(run_demo(options))


@app.command()
def dev(data_dir: DataDirOption = None) -> None:
    """Start Redis, PostgreSQL and a worker for development, and print where they and the status page are.

    Runs until it is stopped. Variables that begin with WORKER_ reach the worker.

    Example: `projection-worker dev --data-dir .data`
    """
    from worker.demo import run_dev

    raise typer.Exit(run_dev(data_dir))
