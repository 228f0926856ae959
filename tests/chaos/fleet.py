"""The replicas: real worker processes, of which none may end by itself."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.acceptance.commands import RunningCommand, running
from tests.waiting import wait_until

STARTED = '"event": "started"'
START_SECONDS = 60
_LOG_TAIL_LINES = 60


class Fleet:
    """So many replicas, each in a place of its own. Places are empty while a fault has taken their replica.

    ``failures`` says what no replica may do: end by itself, or not end as it should.
    """

    def __init__(
        self, env: Mapping[str, str], rng: random.Random, stack: ExitStack, places: int, logs: Path | None
    ) -> None:
        self.replicas: dict[int, RunningCommand] = {}
        self.failures: list[str] = []
        self.starts = 0
        self.log_lines = 0
        self._env = env
        self._rng = rng
        self._stack = stack
        self._logs = logs
        for place in range(places):
            self.start(place)

    def start(self, place: int) -> None:
        """Start a replica, with settings that are drawn anew every time."""
        rng = self._rng
        settings = {
            "WORKER_BATCH_STREAMS": rng.choice(["2", "3", "200"]),
            "WORKER_CACHE_MEGABYTES": rng.choice(["0", "64"]),
            "WORKER_PAGE_MEGABYTES": rng.choice(["0.001", "16"]),
            **rng.choice([{}, {"WORKER_CONSUMER_NAME": f"replica-{place}"}]),
        }
        self.replicas[place] = self._stack.enter_context(running("run", env={**self._env, **settings}))
        self.starts += 1

    def any_place(self, rng: random.Random) -> int:
        return rng.choice(list(self.replicas))

    async def end(self, place: int, signum: signal.Signals) -> None:
        """Kill a replica, or stop it and look how it ends: by itself, and no later than its deadline asks."""
        replica = self.replicas.pop(place)
        if self._ended_by_itself(place, replica):
            return
        had_started = replica.says(STARTED)
        code = await _stop(replica, signum)
        self._keep_log(place, replica)
        if signum is signal.SIGKILL or code == 0 or (code == -signum and not had_started):
            return
        if code == 1 and replica.says('"event": "stop_cancelled"'):
            return  # At its deadline it cancelled what the faults of that time did not let it finish.
        self.failures.append(f"Told to stop, replica {place} ended with exit code {code}: {_tail(replica)}")

    def check(self) -> None:
        """Note which replicas ended by themselves, and replace them."""
        for place, replica in list(self.replicas.items()):
            if self._ended_by_itself(place, replica):
                self.start(place)

    def _ended_by_itself(self, place: int, replica: RunningCommand) -> bool:
        code = replica.process.poll()
        if code is None:
            return False
        self._keep_log(place, replica)
        self.failures.append(f"Replica {place} ended by itself with exit code {code}: {_tail(replica)}")
        return True

    async def all_started(self) -> None:
        for replica in list(self.replicas.values()):
            await wait_until(partial(replica.says, STARTED), "a replica to start", START_SECONDS)

    async def stop(self) -> None:
        """Stop all replicas in peace: each must end with exit code 0."""
        self.check()
        replicas, self.replicas = self.replicas, {}
        codes = await asyncio.gather(*(_stop(replica, signal.SIGTERM) for replica in replicas.values()))
        for (place, replica), code in zip(replicas.items(), codes, strict=True):
            self._keep_log(place, replica)
            if code != 0:
                self.failures.append(
                    f"In the end replica {place} stopped with exit code {code}: {_tail(replica)}"
                )

    def _keep_log(self, place: int, replica: RunningCommand) -> None:
        log = replica.log
        self.log_lines += log.count("\n")
        if self._logs is not None:
            (self._logs / f"replica-{place}-pid-{replica.process.pid}.log").write_text(log)

    def tails(self) -> str:
        """How the logs of the replicas that run end."""
        return "\n".join(f"Replica {place}: {_tail(replica)}" for place, replica in self.replicas.items())


async def _stop(replica: RunningCommand, signum: signal.Signals) -> int:
    """The exit code; that of SIGKILL for a replica that did not stop when told to."""
    try:
        return await asyncio.to_thread(replica.stop, signum)
    except subprocess.TimeoutExpired:
        return await asyncio.to_thread(replica.stop, signal.SIGKILL)


def _tail(replica: RunningCommand) -> str:
    lines = replica.log.splitlines()[-_LOG_TAIL_LINES:]
    return "its log ends with\n" + "\n".join(f"    {line}" for line in lines)
