"""The real command line in processes of its own, each run by whoever is to run that command."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import IO, Any
from unittest.mock import patch

import pytest

from tests.rights import environment_for
from worker.cli import main

DEADLINE_SECONDS = 30


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without settings of a worker, and with these."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WORKER_", "PROJECTION_WORKER_"))
        and name not in ("REDIS_URL", "DATABASE_URL", "REDIS_URL_FILE", "DATABASE_URL_FILE", "NOTIFY_SOCKET")
    }
    # There are several workers on this host, and other tests beside these.
    ours = {"PYTHONWARNINGS": "error", "WORKER_HTTP_ADDRESS": ""}
    return {**inherited, **ours, **variables}


def worker_environment(redis_url: str, database_url: str, prefix: str) -> dict[str, str]:
    """An environment for commands on these servers and under this key prefix, with short periods."""
    return environment(
        REDIS_URL=redis_url, DATABASE_URL=database_url, WORKER_KEY_PREFIX=prefix, WORKER_SWEEP_SECONDS="0.5"
    )


def call(*arguments: str, env: Mapping[str, str], stdin: str | int = "") -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with this text for its input, or a terminal that is open as this file."""
    source: dict[str, Any] = {"input": stdin} if isinstance(stdin, str) else {"stdin": stdin}
    return subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        env=environment_for(arguments[0], env),
        **source,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def call_here(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in this process, which takes a tenth of the time; for tests of many calls."""
    encoding = env.get("PYTHONIOENCODING", "utf-8")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    command = ["worker", *arguments]
    with (
        patch.dict(os.environ, environment_for(arguments[0], env), clear=True),
        patch.object(sys, "argv", command),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    texts = []
    for stream in (out, err):
        stream.flush()
        stream.seek(0)
        texts.append(stream.read())
    code = ended.value.code
    return subprocess.CompletedProcess(command, code if isinstance(code, int) else bool(code), *texts)


@dataclass(frozen=True, slots=True)
class RunningCommand:
    """A command under way; what it logs goes to a file."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]

    @property
    def log(self) -> str:
        """Everything that it has said so far.

        Read without seeking: the command writes at the same place of the same open file.
        """
        descriptor = self.output.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()

    def says(self, words: str) -> bool:
        """Whether it has said this."""
        return words in self.log

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its exit code."""
        self.process.send_signal(signum)
        return self.process.wait(DEADLINE_SECONDS)


@contextmanager
def running(*arguments: str, env: Mapping[str, str], module: str = "worker") -> Iterator[RunningCommand]:
    """Start a command, and kill it at the end if it still runs. ``module`` may be one that alters it."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            # What stands in for a worker does what `run` does, whatever its arguments are.
            env=environment_for(arguments[0] if module == "worker" else "run", env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield RunningCommand(process, output)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(DEADLINE_SECONDS)
