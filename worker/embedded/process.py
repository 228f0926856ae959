"""One server process: started in a session of its own, waited for, stopped."""

from __future__ import annotations

import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from worker.errors import EmbeddedServerError

START_SECONDS = 60  # not only for starting: PostgreSQL may have to recover from a crash first
STOP_SECONDS = 15  # for each of a server's stop signals
POLL_SECONDS = 0.02
PORT_ATTEMPTS = 5
LOG_TAIL_LINES = 20
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Program:
    """What to run and how. `stop_signals` go from polite to rude; `log` is begun anew at every start."""

    name: str
    command: Sequence[str | Path]
    folder: Path
    log: Path
    stop_signals: Sequence[signal.Signals]
    account: pwd.struct_passwd | None = None

    def start(self, is_ready: Callable[[int], bool], stdin: IO[bytes] | None = None) -> RunningProgram:
        """Launch a server and wait until `is_ready(pid)`; whatever interrupts the wait stops it again."""
        running = self._launch(stdin)
        try:
            running.wait_until(is_ready)
        except BaseException:
            running.stop()
            raise
        return running

    def run(self) -> None:
        """Run a program that ends by itself to its end."""
        running = self._launch(None)
        try:
            code = running.popen.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            raise self.failure(f"was not done after {START_SECONDS} s") from None
        finally:
            running.stop()
        if code != 0:
            raise self.failure(f"failed with exit code {code}")

    def failure(self, what: str) -> EmbeddedServerError:
        """The error that says `what` happened and shows how the log ends."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        tail = "\n".join(f"  {line}" for line in lines) or "  (nothing)"
        return EmbeddedServerError(f"{self.name} {what}. Its log, {self.log}, ends with:\n{tail}")

    def _launch(self, stdin: IO[bytes] | None) -> RunningProgram:
        account = self.account
        try:
            with self.log.open("wb") as log:
                popen = subprocess.Popen(
                    [str(argument) for argument in self.command],
                    cwd=self.folder,
                    stdin=stdin or subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # out of the reach of the terminal's Ctrl-C
                    user=account.pw_uid if account else None,
                    group=account.pw_gid if account else None,
                    extra_groups=[] if account else None,
                )
        except OSError as error:
            raise EmbeddedServerError(f"{self.name} could not be run: {error}.") from error
        return RunningProgram(self, popen)


@dataclass(frozen=True, slots=True)
class RunningProgram:
    """A program that was launched. Calling `stop` twice does no harm."""

    program: Program
    popen: subprocess.Popen[bytes]

    def wait_until(self, is_ready: Callable[[int], bool]) -> None:
        """Wait until `is_ready(pid)`, for START_SECONDS at most."""
        deadline = time.monotonic() + START_SECONDS
        while not is_ready(self.popen.pid):
            if (code := self.popen.poll()) is not None:
                raise self.program.failure(f"ended at its start with exit code {code}")
            if time.monotonic() > deadline:
                raise self.program.failure(f"was not ready after {START_SECONDS} s")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop the program politely, then less so. A Ctrl-C meanwhile kills it."""
        try:
            for stop_signal in self.program.stop_signals:
                if self.popen.poll() is not None:
                    return
                self.popen.send_signal(stop_signal)
                with suppress(subprocess.TimeoutExpired):
                    self.popen.wait(STOP_SECONDS)
        finally:
            if self.popen.poll() is None:
                self.popen.kill()
                self.popen.wait()


def start_on_free_port(port_file: Path, start: Callable[[int], RunningProgram]) -> tuple[RunningProgram, int]:
    """Start a server on the port of the last time, else on a free one; on yet another if somebody is faster.

    The port is remembered in `port_file`, so that the URL of a kept folder rarely changes.
    """
    port = _remembered_port(port_file) or _free_port()
    for attempt in range(1, PORT_ATTEMPTS + 1):
        try:
            server = start(port)
        except EmbeddedServerError:
            if attempt == PORT_ATTEMPTS or _is_free(port):
                raise
            port = _free_port()
        else:
            port_file.write_text(f"{port}\n")
            return server, port
    raise AssertionError("the last attempt returns or raises")


def _remembered_port(port_file: Path) -> int | None:
    try:
        return int(port_file.read_text())
    except (OSError, ValueError):
        return None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        # As the servers do: connections in TIME_WAIT do not make a port taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
