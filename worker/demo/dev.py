"""`projection-worker dev`: both servers and one worker, until stopped."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from worker.demo.interrupts import ended_by_signals
from worker.demo.screen import say
from worker.demo.status_page import choose_status_page
from worker.demo.surroundings import NAMES_OF_SERVERS, RUN_COMMAND, migrated_servers, python_path, without_tls

_STOP_SECONDS = 35.0  # more than the worker takes by default, so that it gives up first


def run_dev(data_dir: Path | None) -> int:
    """Run both servers and a worker until a signal. The exit code: 0, or 1 if the worker ended badly.

    Variables that begin with WORKER_ reach the worker; REDIS_URL and DATABASE_URL are replaced, and so are
    those that name files with these. Its log goes to this process's standard error. Raises what
    `embedded_servers` raises.
    """
    console = Console(highlight=False)
    try:
        with ended_by_signals(), migrated_servers(data_dir) as servers:
            say(console, f"REDIS_URL={servers.redis_url}")
            say(console, f"DATABASE_URL={servers.database_url}")
            page = choose_status_page(os.environ)
            if page.url:
                say(console, f"Status page: {page.url}")
            say(console, "A worker is running. Press Ctrl-C to stop it and the servers.")
            inherited = {name: value for name, value in os.environ.items() if name not in NAMES_OF_SERVERS}
            environment = {
                **inherited,
                **page.variables,
                "PYTHONPATH": python_path(),
                "REDIS_URL": servers.redis_url,
                "DATABASE_URL": without_tls(servers.database_url),
            }
            code = _run_worker(environment)
    except KeyboardInterrupt:
        code = 0
    say(console, "Stopped." if code == 0 else f"The worker ended with exit code {code}.")
    return min(code, 1)


def _run_worker(environment: dict[str, str]) -> int:
    """The worker's exit code, once it has ended or a signal has made us end it."""
    # In a session of its own: a Ctrl-C in the terminal reaches us, and we tell the worker once.
    worker = subprocess.Popen(RUN_COMMAND, env=environment, start_new_session=True)
    try:
        with suppress(KeyboardInterrupt):
            return worker.wait()
        worker.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            return worker.wait(_STOP_SECONDS)
    finally:  # also when a second Ctrl-C interrupts the wait
        if worker.poll() is None:
            worker.kill()
            worker.wait()
    return worker.returncode
