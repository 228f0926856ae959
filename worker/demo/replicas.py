"""Replicas as real processes: started, killed, replaced, stopped."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from worker.demo.surroundings import RUN_COMMAND
from worker.errors import ProjectionWorkerError
from worker.settings import variable

_POLL_SECONDS = 0.05
_STOP_SECONDS = 10.0
_LOG_TAIL_LINES = 20


class ReplicaDiedError(ProjectionWorkerError):
    """A replica ended although nobody told it to; the message ends with its log."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One process, and since when (Unix seconds). Its name is that of its consumer in the group."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    started_at: float = field(default_factory=time.time)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def failure(self, what: str) -> ReplicaDiedError:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        tail = "\n".join(f"  {line}" for line in lines) or "  (nothing)"
        return ReplicaDiedError(f"{self.name} (pid {self.process.pid}) {what}. Its log ends with:\n{tail}")


@dataclass(frozen=True, slots=True)
class Kill:
    """A replica that was killed, and when (Unix seconds)."""

    name: str
    pid: int
    at: float


class ReplicaProcesses:
    """So many replicas at any time. They run in sessions of their own, out of the reach of Ctrl-C."""

    def __init__(self, environment: Mapping[str, str], folder: Path, rng: random.Random) -> None:
        self.running: list[Replica] = []
        self.kills: list[Kill] = []
        self._environment = environment
        self._folder = folder
        self._rng = rng
        self._numbers = itertools.count(1)

    def start(self) -> None:
        """Start one more replica."""
        name = f"replica-{next(self._numbers)}"
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                RUN_COMMAND,
                env={**self._environment, variable("consumer_name"): name},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(Replica(name, process, log))

    def kill_one(self) -> None:
        """Kill some replica without warning and start another in its place."""
        victim = self._rng.choice(self.running)
        self.running.remove(victim)
        victim.process.kill()
        victim.process.wait()
        self.kills.append(Kill(victim.name, victim.process.pid, time.time()))
        self.start()

    async def kill_now_and_then(self, pause_seconds: float) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(pause_seconds)
            self.kill_one()

    async def watch(self) -> None:
        """Never returns; raises ReplicaDiedError when a replica ends by itself."""
        while True:
            for replica in self.running:
                if not replica.running:
                    raise replica.failure(f"ended with exit code {replica.process.returncode}")
            await asyncio.sleep(_POLL_SECONDS)

    async def stop(self) -> None:
        """Stop all replicas: politely, and after a deadline by force. Does no harm when called again.

        Raises ReplicaDiedError for one that did not stop as it should; all are gone then, too.
        """
        stopping, self.running = self.running, []
        try:
            for replica in stopping:
                replica.process.send_signal(signal.SIGTERM)
            ends = (asyncio.to_thread(replica.process.wait, _STOP_SECONDS) for replica in stopping)
            await asyncio.gather(*ends, return_exceptions=True)
        finally:  # also when this wait is cancelled by a second Ctrl-C
            for replica in stopping:
                if replica.running:
                    replica.process.kill()
                    replica.process.wait()
        for replica in stopping:
            # One that had only just begun to start ends by the signal itself.
            if replica.process.returncode not in (0, -signal.SIGTERM):
                raise replica.failure(f"did not stop as it should: exit code {replica.process.returncode}")


@asynccontextmanager
async def replica_processes(
    count: int, environment: Mapping[str, str], folder: Path, rng: random.Random
) -> AsyncIterator[ReplicaProcesses]:
    """Start replicas, and stop whichever run at the end. Call `stop` before to hear how they ended."""
    processes = ReplicaProcesses(environment, folder, rng)
    try:
        for _ in range(count):
            processes.start()
        yield processes
    finally:
        with suppress(ReplicaDiedError):
            await processes.stop()
