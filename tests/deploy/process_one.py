"""The units under a real systemd, which is process 1 of a container.

``python -m tests.deploy.process_one IMAGE`` needs podman, and an image of Debian 12 or later that boots
systemd and has the packages python3-venv, redis-server and postgresql. It ends with 0 if all is well.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import block_until

ROOT = Path(__file__).parents[2]
PROGRAM = "/opt/projection-worker/bin/projection-worker"
URLS = "REDIS_URL_FILE=/etc/projection-worker/redis-url DATABASE_URL_FILE=/etc/projection-worker/database-url"
INSTALLED = """
FROM {image}
WORKDIR /build
COPY . .
RUN python3 -m venv /opt/projection-worker && /opt/projection-worker/bin/pip install -q .
"""
SET_UP = """
# systemd does so at the boot of a host, but not in a container, where credentials would reach no service.
mount --make-rshared /
install -d -m 700 /etc/projection-worker
cd /etc/projection-worker
echo redis://127.0.0.1:6379/0 > redis-url
echo postgresql://worker:secret@127.0.0.1:5432/worker > database-url
chmod 600 redis-url database-url
cd /tmp
su postgres -c "psql -q" << 'SQL'
CREATE ROLE worker LOGIN PASSWORD 'secret';
CREATE DATABASE worker OWNER worker;
SQL
systemctl daemon-reload
"""
IMPATIENT = """
cd /etc/systemd/system
mkdir -p projection-worker.service.d
printf '[Service]\\nWatchdogSec=4\\nTimeoutAbortSec=3\\n' > projection-worker.service.d/test.conf
systemctl daemon-reload
systemctl restart projection-worker
"""


class Box:
    """A container that systemd has booted in."""

    def __init__(self, name: str) -> None:
        self._name = name

    def run(self, script: str) -> str:
        """What a shell script prints; an error if it fails."""
        command = ["podman", "exec", "-i", self._name, "bash", "-e"]
        return subprocess.run(
            command, input=script, capture_output=True, text=True, check=True
        ).stdout.strip()

    def worker(self, arguments: str) -> str:
        """Run a command of the worker as root."""
        return self.run(f"{URLS} {PROGRAM} {arguments}")

    def shows(self, property_: str, value: str, unit: str = "projection-worker") -> None:
        """Wait until systemd shows of a unit a property with this value in it."""
        shown = f"systemctl show --value -p {property_} {unit}"
        block_until(lambda: value in self.run(shown), f"{property_} of {unit} to be {value}", 30)

    def journal(self) -> str:
        return self.run("journalctl --no-pager -o cat -u projection-worker")


@contextmanager
def booted(image: str) -> Iterator[Box]:
    """A container with the worker installed, the units in their place, and both servers."""
    name = f"projection-worker-{secrets.token_hex(4)}"
    build = ["podman", "build", "-q", "--network=host", "-t", name, "-f", "-", str(ROOT)]
    subprocess.run(build, input=INSTALLED.format(image=image), text=True, check=True)
    try:
        subprocess.run(
            ["podman", "run", "-d", "--name", name, "--systemd=always", "--privileged", name], check=True
        )
        subprocess.run(
            ["podman", "cp", f"{ROOT}/deploy/systemd/.", f"{name}:/etc/systemd/system/"], check=True
        )
        box = Box(name)
        block_until(
            lambda: box.run("systemctl is-system-running || true") in ("running", "degraded"), "a boot", 60
        )
        box.run(SET_UP)
        yield box
    finally:
        subprocess.run(["podman", "rm", "-f", "-t", "5", name], check=False)
        subprocess.run(["podman", "rmi", "-f", name], check=False)


def is_started_once_it_projects(box: Box) -> None:
    box.run("systemctl start --no-block projection-worker")
    box.shows("StatusText", "projection-worker migrate")
    box.shows("ActiveState", "activating")
    box.worker("migrate")
    box.shows("ActiveState", "active")
    box.shows("StatusText", "Projecting.")


def stops_gracefully(box: Box) -> None:
    box.run("systemctl stop projection-worker")
    box.shows("Result", "success")
    assert '"event": "stopped"' in box.journal()


def is_restarted_with_a_traceback_when_it_is_frozen(box: Box) -> None:
    box.run(IMPATIENT)
    box.run("kill -STOP $(systemctl show --value -p MainPID projection-worker)")
    box.shows("NRestarts", "1")
    box.shows("ActiveState", "active")
    assert "Failed with result 'watchdog'" in box.journal()
    assert "most recent call first" in box.journal()
    box.run("systemctl stop projection-worker")


def runs_as_several_replicas_and_verifies_a_sample(box: Box) -> None:
    box.run(
        "systemctl enable -q --now projection-worker@1 projection-worker@2 projection-worker-verify.timer"
    )
    box.worker("""emit chat-1 user_message '{"content": "Hello"}'""")
    block_until(lambda: '"rows": 1' in box.worker("status --json"), "a row")
    box.run("systemctl start projection-worker-verify")
    box.run("systemctl stop projection-worker@1 projection-worker@2")
    box.shows("Result", "success", "projection-worker@2")


def is_not_started_again_and_again_with_a_wrong_setting(box: Box) -> None:
    box.run("echo WORKER_LINGER_MS=x > /etc/projection-worker/settings.env")
    box.run("systemctl start projection-worker || true")
    box.shows("ActiveState", "failed")
    assert "WORKER_LINGER_MS is wrong" in box.journal()


def main(image: str) -> None:
    with booted(image) as box:
        for claim in (
            is_started_once_it_projects,
            stops_gracefully,
            is_restarted_with_a_traceback_when_it_is_frozen,
            runs_as_several_replicas_and_verifies_a_sample,
            is_not_started_again_and_again_with_a_wrong_setting,
        ):
            claim(box)
            sys.stdout.write(f"The service {claim.__name__.replace('_', ' ')}.\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
