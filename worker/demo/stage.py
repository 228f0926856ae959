"""Where the demo happens: replicas work, producers write, the table is watched, the screen shows it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from rich.console import Console

from worker.app import Servers
from worker.demo.interrupts import raise_if_cancelled
from worker.demo.options import DemoOptions
from worker.demo.producers import Chat, Producers
from worker.demo.progress import Latencies, Observer, Progress
from worker.demo.recent import recent_rows
from worker.demo.replicas import ReplicaProcesses
from worker.demo.screen import RECENT_ROWS, ReplicaView, View, show
from worker.projection import Projection
from worker.replicas import Replicas
from worker.settings import Settings
from worker.store import Store

_START_SECONDS = 60.0
_CATCH_UP_SECONDS = 60.0
_MOST_KILL_PAUSE_SECONDS = 4.0
_POLL_SECONDS = 0.05
_RATE_SECONDS = 2.0
_LATENCIES_SHOWN = 500


class Stage:
    """One performance. Read `progress`, `observer` and `seconds` after it."""

    def __init__(
        self,
        settings: Settings,
        servers: Servers,
        projection: Projection,
        processes: ReplicaProcesses,
        console: Console,
    ) -> None:
        self.progress = Progress(projection.types, projection.checkpoints)
        self.observer = Observer(Store(servers.engine, projection), self.progress)
        self.seconds = 0.0
        """How long it took from the first event until the last one was projected, or waiting was given up."""
        self._servers = servers
        self._projection = projection
        self._processes = processes
        self._console = console
        self._reports = Replicas(servers.redis, settings.keys, projection.name)
        self._producers = Producers(
            servers.redis, projection.keys(settings.keys), projection, self._note_appended
        )
        self._phase = "Waiting for the replicas"
        self._began_at = time.monotonic()
        self._appended_at = deque([(self._began_at, 0)])

    async def perform(self, chats: Sequence[Chat], options: DemoOptions) -> None:
        """Simulate, then wait until everything is projected, though not for ever.

        Raises ReplicaDiedError when a replica ends that was not killed.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                finished = asyncio.Event()
                watchers = [tasks.create_task(self._processes.watch())]
                await self._replicas_work()
                self._began_at = time.monotonic()
                self._appended_at = deque([(self._began_at, 0)])
                screen = tasks.create_task(show(self._console, self._look, finished))
                watchers += [
                    tasks.create_task(self.observer.watch_checkpoints()),
                    tasks.create_task(self.observer.watch_all()),
                ]
                await self._simulate(chats, options)
                await self._catch_up()
                finished.set()
                await screen
                for watcher in watchers:
                    watcher.cancel()
        except ExceptionGroup as failures:
            raise _first(failures) from None

    async def _replicas_work(self) -> None:
        """Wait for every replica's first report, so that their start is in no figure."""
        deadline = time.monotonic() + _START_SECONDS
        while not all(view.events_applied is not None for view in await self._replica_views()):
            raise_if_cancelled()
            if time.monotonic() > deadline:
                raise self._processes.running[0].failure(f"did not work after {_START_SECONDS:.0f} s")
            await asyncio.sleep(_POLL_SECONDS)

    async def _simulate(self, chats: Sequence[Chat], options: DemoOptions) -> None:
        self._phase = f"{len(chats)} conversations"
        producing = self._producers.run(chats, options.seconds, options.events_per_second)
        pause = min(_MOST_KILL_PAUSE_SECONDS, options.seconds / 4)
        async with asyncio.TaskGroup() as tasks:
            killing = tasks.create_task(self._processes.kill_now_and_then(pause)) if options.kill else None
            await producing
            if killing:
                killing.cancel()

    async def _catch_up(self) -> None:
        self._phase = "Waiting for the last events"
        with suppress(TimeoutError):
            async with asyncio.timeout(_CATCH_UP_SECONDS):
                await self.progress.nothing_waits.wait()
        self._phase = "Not everything is projected" if self.progress.waiting else "Everything is projected"
        self.seconds = time.monotonic() - self._began_at

    def _note_appended(self, chat: Chat, event_id: str, event_type: str) -> None:
        self.progress.note_appended(chat.stream_id, event_id, event_type, hinted=chat.producer.hints)

    async def _look(self) -> View:
        raise_if_cancelled()
        progress = self.progress
        latencies = Latencies(progress.hinted_checkpoints[-_LATENCIES_SHOWN:])
        kills = self._processes.kills
        return View(
            phase=self._phase,
            seconds=self.seconds or time.monotonic() - self._began_at,
            appended=progress.appended,
            appended_a_second=self._rate(),
            projected=progress.projected,
            hinted=progress.lag(time.time(), hinted=True),
            unhinted=progress.lag(time.time(), hinted=False),
            latency_p50=latencies.percentile(50),
            latency_p99=latencies.percentile(99),
            replicas=await self._replica_views(),
            kills=len(kills),
            last_kill=self._last_kill(),
            recent=await recent_rows(self._servers.engine, self._projection, RECENT_ROWS),
        )

    def _last_kill(self) -> str | None:
        if not (kills := self._processes.kills):
            return None
        return f"{kills[-1].name} (pid {kills[-1].pid}) was killed {time.time() - kills[-1].at:.0f} s ago"

    def _rate(self) -> float:
        """Events appended a second, lately."""
        now = time.monotonic()
        self._appended_at.append((now, self.progress.appended))
        while len(self._appended_at) > 2 and now - self._appended_at[0][0] > _RATE_SECONDS:
            self._appended_at.popleft()
        since, appended = self._appended_at[0]
        return (self.progress.appended - appended) / (now - since) if now > since else 0.0

    async def _replica_views(self) -> list[ReplicaView]:
        """The running replicas and what they report. A kept Redis may hold reports of their namesakes."""
        reports = {report.consumer: report for report in await self._reports.all()}
        return [
            ReplicaView(
                name=replica.name,
                pid=replica.process.pid,
                seconds=time.time() - replica.started_at,
                events_applied=report.events_applied
                if (report := reports.get(replica.name)) and report.started_at >= replica.started_at
                else None,
            )
            for replica in self._processes.running
        ]


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    """What failed first, which is why everything else was cancelled."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
