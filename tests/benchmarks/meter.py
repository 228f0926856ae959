"""How much processor time and memory processes take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.benchmarks.world import World

REDIS = "Redis"
POSTGRESQL = "PostgreSQL"
_MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Meter:
    """Reads the CPU seconds of both servers and of processes under measurement, told by their names.

    ``postmaster`` is None where PostgreSQL runs elsewhere, as in a container: it is left out then.
    """

    world: World
    postmaster: psutil.Process | None

    @classmethod
    async def of(cls, world: World) -> Meter:
        pid = await world.connection.fetchval("SELECT pg_backend_pid()")
        try:
            backend = psutil.Process(pid)
            postmaster = backend.parent() if "postgres" in backend.name() else None
        except psutil.NoSuchProcess:
            postmaster = None
        return cls(world, postmaster)

    async def read(self, processes: Mapping[str, list[int]]) -> dict[str, float]:
        """CPU seconds up to now, of each name for all its process ids and their children."""
        told = {name: sum(map(_processor_seconds, pids)) for name, pids in processes.items()}
        info = await self.world.redis.info("cpu")
        told[REDIS] = float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
        if self.postmaster is not None:
            told[POSTGRESQL] = _processor_seconds(self.postmaster.pid)
        return told


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """CPU seconds between two readings."""
    return {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}


def _processor_seconds(pid: int) -> float:
    """Of a process and its children, also of those that have ended meanwhile."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    total = float(times.user + times.system + times.children_user + times.children_system)
    for child in process.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += float(times.user + times.system)
    return total


def peak_megabytes(pid: int) -> float:
    """The most memory that a process has had at once, in MiB; where Linux does not tell, what it has now."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return float(psutil.Process(pid).memory_info().rss) / _MEGABYTE
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def waited_for_cores(pid: int) -> float:
    """For how many seconds a process's main thread could have run, but others had the cores."""
    try:
        _, waited_nanoseconds, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    except FileNotFoundError:
        return 0.0
    return int(waited_nanoseconds) / 1e9
