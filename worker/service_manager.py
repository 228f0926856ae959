"""What the service manager is told: that the worker is ready, how it is, that it stops, that its loop turns.

systemd names a socket in NOTIFY_SOCKET and takes lines there (``man sd_notify``); without that variable
nothing happens. The worker is *ready* when it has reached both servers and may write its tables. Until
then it asks for more time again and again, so that one that waits for a server is not ended for that,
and one that is frozen is. Once ready it stays so for systemd, whatever is away later: the status says
what. With WATCHDOG_USEC it tells that the loop turns, twice in that time: systemd restarts a worker that
does not.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from time import monotonic

import structlog

from worker.health import Health
from worker.waiting import wait_for

log = structlog.get_logger("worker")

_LOOK_SECONDS = 1.0
_BEAT_SECONDS = 10.0
_MORE_TIME = timedelta(seconds=30)
_LONGEST_STATUS = 500


@asynccontextmanager
async def telling_service_manager(
    health: Health, stop: asyncio.Event, *, stop_takes: timedelta, environ: Mapping[str, str]
) -> AsyncIterator[None]:
    """While the block lasts, systemd is told how the worker is, if ``environ`` says that it listens.

    Nothing waits for systemd, and what it does not take is told again. ``stop_takes`` is how long the worker
    may take from ``stop`` to its end.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        yield
        return
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sending:
        sending.setblocking(False)
        manager = ServiceManager(sending, address, watchdog_period(environ), health, stop, stop_takes)
        telling = asyncio.create_task(manager.keep_telling())
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.wait([telling])


def watchdog_period(environ: Mapping[str, str]) -> timedelta | None:
    """Within which time this process must say that it is alive; None if nobody asks."""
    microseconds, process = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or not int(microseconds) or process not in ("", str(os.getpid())):
        return None
    return timedelta(microseconds=int(microseconds))


class ServiceManager:
    """Tells what has changed, and at every beat that there is life."""

    def __init__(
        self, sending: socket.socket, address: str, watchdog: timedelta | None,
        health: Health, stop: asyncio.Event, stop_takes: timedelta,
    ) -> None:  # fmt: skip
        self._sending = sending
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watched = watchdog is not None
        self._beat_seconds = watchdog.total_seconds() / 2 if watchdog else _BEAT_SECONDS
        self._health = health
        self._stop = stop
        self._stop_takes = stop_takes
        self._told: dict[str, str] = {}
        self._next_beat = 0.0
        self._failed = False

    async def keep_telling(self) -> None:
        """Go on until cancelled. What the worker is doing is noticed within a second, a stop at once."""
        pause = min(_LOOK_SECONDS, self._beat_seconds)
        while True:
            self._tell()
            if self._stop.is_set():
                await asyncio.sleep(pause)
            else:
                await wait_for(self._stop, pause)

    def _tell(self) -> None:
        state, now = self._state(), monotonic()
        news = {name: value for name, value in state.items() if self._told.get(name) != value}
        # A beat that fell due before the next look would come late.
        beat = self._beat() if now >= self._next_beat else {}
        if (lines := {**beat, **news}) and self._send(lines):
            self._told |= news
            if beat:
                self._next_beat = now + max(0.0, self._beat_seconds - _LOOK_SECONDS)

    def _state(self) -> dict[str, str]:
        """What is told once, and again when it is another."""
        problems = self._health.problems()
        if self._stop.is_set():
            more = _microseconds(self._stop_takes)
            return {"STOPPING": "1", "STATUS": "Finishing what is in hand.", "EXTEND_TIMEOUT_USEC": more}
        if problems:
            told = " ".join(" ".join(map(str, problems)).split())
            return {"STATUS": told[:_LONGEST_STATUS]}
        return {"READY": "1", "STATUS": "Projecting."}

    def _beat(self) -> dict[str, str]:
        alive = {"WATCHDOG": "1"} if self._watched else {}
        if "READY" in self._told or self._stop.is_set():
            return alive
        return {**alive, "EXTEND_TIMEOUT_USEC": _microseconds(_MORE_TIME)}

    def _send(self, lines: Mapping[str, str]) -> bool:
        """Whether systemd has it now."""
        message = "\n".join(f"{name}={value}" for name, value in lines.items())
        try:
            self._sending.sendto(message.encode(), self._address)
        except OSError as error:
            if not self._failed:
                log.warning("service_manager_not_told", error=str(error))
            self._failed = True
            return False
        self._failed = False
        return True


def _microseconds(duration: timedelta) -> str:
    return str(duration // timedelta(microseconds=1))
