"""What baselines say, in the form of the worker's log lines."""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import UTC, datetime
from typing import NoReturn

from worker import Keys


def say(event: str) -> None:
    """Tell that something happens now."""
    line = json.dumps({"event": event, "timestamp": datetime.now(UTC).isoformat()})
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def finish() -> NoReturn:
    """Tell that all is done, and stay, so that the processor time can be read, until told to end."""
    say("finished")
    while True:
        signal.pause()


def redis_url() -> str:
    return os.environ["REDIS_URL"]


def database_url() -> str:
    return os.environ["DATABASE_URL"]


def keys() -> Keys:
    return Keys(os.environ["WORKER_KEY_PREFIX"])
