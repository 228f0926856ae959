"""Servers of a test's own, which it may stop, kill, freeze and start again.

They come out of the wheels, whatever servers the other tests use, and listen on the same port all their life.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from worker.embedded.folder import stop_leftovers
from worker.embedded.postgresql import find_postgresql, start_postgresql
from worker.embedded.process import RunningProgram
from worker.embedded.redis_server import find_redis_server, start_redis


class OwnServer:
    """A server and what can happen to it. Each method returns when it has happened; twice does no harm."""

    def __init__(self, folder: Path, start: Callable[[Path], tuple[RunningProgram, str]]) -> None:
        self._folder = folder
        self._start = start
        self._running: RunningProgram | None = None
        self.url = ""
        self.start()

    def start(self) -> None:
        """Start it, with the data that it had when it ended, and wait until it answers; thaw it if frozen."""
        if self._running is not None:
            self.thaw()
        else:
            self._running, url = self._start(self._folder)
            assert self.url in ("", url), "somebody else has taken the port"
            self.url = url

    def stop(self) -> None:
        """Stop it as an administrator does: its clients are cut off, its data are written."""
        if self._running is not None:
            self.thaw()
            self._running.stop()
            self._running = None

    def kill(self) -> None:
        """End all its processes at once."""
        if self._running is not None:
            self._signal(signal.SIGKILL)
            self._running.popen.wait()
            self._running = None
            stop_leftovers(self._folder)

    def freeze(self) -> None:
        """Have it take connections and bytes, and answer nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, signum: signal.Signals) -> None:
        assert self._running is not None, "the server does not run"
        server = psutil.Process(self._running.popen.pid)
        for process in (server, *server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signum)


@contextmanager
def own_postgresql() -> Iterator[OwnServer]:
    """A PostgreSQL; a kill loses what was not committed, and nothing else."""
    with _own("postgresql", _start_postgresql) as server:
        yield server


@contextmanager
def own_redis(*, kept: bool = True) -> Iterator[OwnServer]:
    """A Redis that writes every command to its file, or one that forgets everything when it ends."""

    def start(folder: Path) -> tuple[RunningProgram, str]:
        started = start_redis(find_redis_server(), folder, kept=kept, durable=True)
        return started.process, started.url

    with _own("redis", start) as server:
        yield server


def _start_postgresql(folder: Path) -> tuple[RunningProgram, str]:
    started = start_postgresql(find_postgresql(), folder, durable=False)
    return started.process, started.url


@contextmanager
def _own(name: str, start: Callable[[Path], tuple[RunningProgram, str]]) -> Iterator[OwnServer]:
    with tempfile.TemporaryDirectory(prefix=f"projection-worker-{name}-") as folder:
        path = Path(folder)
        path.chmod(0o711)  # Where the tests run as root, PostgreSQL runs as somebody else.
        server = OwnServer(path, start)
        try:
            yield server
        finally:
            server.kill()
