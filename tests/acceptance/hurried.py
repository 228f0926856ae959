"""`projection-worker` as if time went faster: its pauses, timeouts and regular log lines come sooner.

Run as `python -m tests.acceptance.hurried run`. What it does in twenty seconds, a worker does in ten minutes.
"""

from __future__ import annotations

from types import ModuleType

from worker import database, readiness, retry, running, service
from worker.__main__ import main

SPEED = 30

_DURATIONS: dict[ModuleType, tuple[str, ...]] = {
    database: ("_COMMAND_TIMEOUT_SECONDS", "_CONNECT_TIMEOUT_SECONDS"),
    readiness: ("_ANSWER_SECONDS",),
    retry: ("_FIRST_PAUSE_SECONDS", "_LONGEST_PAUSE_SECONDS", "_TELL_AGAIN_SECONDS", "_TELL_ANEW_SECONDS"),
    running: ("_WATCH_SECONDS",),
    service: ("_HOUSEKEEPING_SECONDS", "_REPORT_SECONDS"),
}

if __name__ == "__main__":
    for module, names in _DURATIONS.items():
        for name in names:
            setattr(module, name, getattr(module, name) / SPEED)
    main()
