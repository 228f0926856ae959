"""A master with two replicas, and three sentinels that watch them: real ones, of a test's own.

All of them want passwords: the servers one, the sentinels another.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import redis as redis_py
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.own_servers import OwnServer
from tests.waiting import block_until
from worker.embedded.process import LOOPBACK, Program, RunningProgram, start_on_free_port
from worker.embedded.redis_server import find_redis_server

SERVICE = "conversations"
PASSWORD, SENTINEL_PASSWORD = "p@ss/word", "watch,it"
REPLICATOR = "replicator"
DOWN_AFTER_MS = 1000
FAILOVER_SECONDS = 30

_AS_SERVER = """
    bind {host}
    port {port}
    requirepass {password}
    user {replicator} on >{password} ~* &* +psync +replconf +ping
    masteruser {replicator}
    masterauth {password}
    repl-diskless-sync yes
    repl-diskless-sync-delay 0
    repl-ping-replica-period 1
    min-replicas-to-write 1
    save ""
    appendonly yes
"""
_AS_SENTINEL = """
    bind {host}
    port {port}
    requirepass {sentinel_password}
    sentinel monitor {service} {host} {master} 2
    sentinel auth-pass {service} {password}
    sentinel down-after-milliseconds {service} {down_after}
    sentinel failover-timeout {service} 5000
    sentinel parallel-syncs {service} 2
    sentinel sentinel-pass {sentinel_password}
"""


class Watched:
    """The servers and their sentinels. Who is the master changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[OwnServer] = []
        master = self._start("server-0", _AS_SERVER)
        self.servers = [master]
        replica = f"{_AS_SERVER}    replicaof {LOOPBACK} {port_of(master)}\n"
        self.servers += [self._start(f"server-{number}", replica) for number in (1, 2)]
        monitor = _AS_SENTINEL.replace("{master}", str(port_of(master)))
        self.sentinels = [self._start(f"sentinel-{number}", monitor) for number in range(3)]
        self.whole()

    def _start(self, name: str, settings: str) -> OwnServer:
        (self._folder / name).mkdir()
        server = OwnServer(self._folder / name, lambda folder: _start(folder, settings))
        self._running.append(server)
        return server

    def url(self, service: str = SERVICE, **parameters: str) -> str:
        """A URL for REDIS_URL, with these parameters in place of the right ones."""
        hosts = ",".join(f"{LOOPBACK}:{port_of(sentinel)}" for sentinel in self.sentinels)
        query = urlencode({"sentinel_password": SENTINEL_PASSWORD, **parameters})
        return f"redis+sentinel://:{quote(PASSWORD, safe='')}@{hosts}/{service}/0?{query}"

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Of the sentinels."""
        return [(LOOPBACK, port_of(sentinel)) for sentinel in self.sentinels]

    def master(self) -> OwnServer:
        """The server that the first sentinel names."""
        return self._named_by(self.sentinels[0])

    def _named_by(self, sentinel: OwnServer) -> OwnServer:
        with client(sentinel) as asked:
            _, port = asked.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if port_of(server) == int(port))

    def fail_over(self) -> None:
        """Have the sentinels make another server the master, as for maintenance, and wait until it is."""
        before = self.master()
        with client(self.sentinels[0]) as asked:
            asked.execute_command("SENTINEL", "FAILOVER", SERVICE)
        self._moved(before)

    def kill_master(self) -> None:
        """Kill the master, and wait until the sentinels have made another server the master."""
        before = self.master()
        before.kill()
        self._moved(before)

    def _moved(self, before: OwnServer) -> None:
        def moved() -> bool:
            named = [self._named_by(sentinel) for sentinel in self.sentinels]
            return before not in named and len(set(named)) == 1 and _role(named[0]) == "master"

        block_until(moved, "another server to be the master", FAILOVER_SECONDS)

    @contextmanager
    def demoted(self) -> Iterator[OwnServer]:
        """The master as a replica of nothing, before any sentinel has heard of it."""
        server = self.master()
        with client(server) as master:
            master.execute_command("REPLICAOF", LOOPBACK, "1")
            try:
                yield server
            finally:
                master.execute_command("REPLICAOF", "NO", "ONE")
                block_until(lambda: _takes_writes(master), "replicas to be back")

    def cut_replication(self) -> None:
        """Let replicas have no more of what the master gets, and let that not trouble it."""
        with client(self.master()) as master:
            master.config_set("min-replicas-to-write", 0)
            master.execute_command("ACL", "SETUSER", REPLICATOR, "off")
            master.execute_command("CLIENT", "KILL", "TYPE", "replica")

    def whole(self) -> None:
        """Start what does not run, and wait until the sentinels see all the others well."""
        for server in self._running:
            server.start()

        def seen_by(sentinel: OwnServer) -> bool:
            with client(sentinel) as asked:
                master = _pairs(asked.execute_command("SENTINEL", "MASTER", SERVICE))
                replicas = map(_pairs, asked.execute_command("SENTINEL", "REPLICAS", SERVICE))
            follow = [r for r in replicas if (r["flags"], r["master-link-status"]) == ("slave", "ok")]
            return (master["flags"], master["num-other-sentinels"], len(follow)) == ("master", "2", 2)

        block_until(lambda: all(map(seen_by, self.sentinels)), "all servers to be well", FAILOVER_SECONDS)

    def kill(self) -> None:
        """End all of them."""
        for server in reversed(self._running):
            server.kill()


@contextmanager
def watched_servers() -> Iterator[Watched]:
    """Start them all, and end them at the end."""
    with tempfile.TemporaryDirectory(prefix="projection-worker-sentinel-") as folder:
        watched = Watched(Path(folder))
        try:
            yield watched
        finally:
            watched.kill()


def port_of(server: OwnServer) -> int:
    return int(server.url.rpartition(":")[2])


@contextmanager
def client(server: OwnServer) -> Iterator[redis_py.Redis]:
    """A client of this very server or sentinel."""
    password = SENTINEL_PASSWORD if "sentinel" in server.url else PASSWORD
    with redis_py.Redis(
        port=port_of(server), password=password, decode_responses=True, socket_timeout=5, retry=_ONCE
    ) as connected:
        yield connected


_ONCE = Retry(NoBackoff(), 0)


def _pairs(reply: Any) -> dict[str, str]:
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


def _role(server: OwnServer) -> str:
    with client(server) as asked:
        return str(asked.execute_command("ROLE")[0])


def _takes_writes(master: redis_py.Redis) -> bool:
    info: Any = master.info("replication")
    return bool(info["min_slaves_good_slaves"] >= 1)


def _start(folder: Path, settings: str) -> tuple[RunningProgram, str]:
    """Start a server with these settings, or with those that it has noted down itself since then."""
    kind = folder.name.partition("-")[0]
    file = folder / "redis.conf"

    def start(port: int) -> RunningProgram:
        if not (folder / "redis.port").exists():
            lines = settings.format(
                host=LOOPBACK,
                port=port,
                password=PASSWORD,
                sentinel_password=SENTINEL_PASSWORD,
                replicator=REPLICATOR,
                service=SERVICE,
                down_after=DOWN_AFTER_MS,
            )
            file.write_text("\n".join(map(str.strip, lines.splitlines())))
        command: list[str | Path] = [find_redis_server(), file]
        command += ["--sentinel"] if kind == "sentinel" else []
        program = Program(folder.name, command, folder, folder / "log", [signal.SIGTERM])
        return program.start(_answering(kind, port))

    process, port = start_on_free_port(folder / "redis.port", start)
    return process, f"{kind}:{port}"


def _answering(kind: str, port: int) -> Callable[[int], bool]:
    password = SENTINEL_PASSWORD if kind == "sentinel" else PASSWORD

    def answers(pid: int) -> bool:
        with (
            suppress(redis_py.RedisError, OSError),
            redis_py.Redis(port=port, password=password, retry=_ONCE, socket_timeout=0.5) as asked,
        ):
            return bool(asked.info("server")["process_id"] == pid)
        return False

    return answers
