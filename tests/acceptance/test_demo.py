"""`demo` and `dev` as people run them: real servers, real workers, real signals, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from tests.asking import ask
from tests.waiting import block_until, wait_until
from worker.address import Address
from worker.emit import emit
from worker.keys import Keys

ROOT = Path(__file__).parents[2]
SECONDS = 60
WORKING = r"[1-9][\d,]* projected"

DAMAGE = """
CREATE FUNCTION damage() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NEW.record_type := 'damaged'; RETURN NEW; END $$;
CREATE TRIGGER damage BEFORE INSERT OR UPDATE ON stream_projections FOR EACH ROW EXECUTE FUNCTION damage();
"""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that is running, with its output in a file."""

    process: subprocess.Popen[bytes]
    file: Path

    @property
    def output(self) -> str:
        return self.file.read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until the output matches."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.output)
            assert match or self.process.poll() is None, f"ended without {pattern!r}: {self.output}"
            return match

        return block_until(found, f"{pattern!r} in the output", SECONDS)

    def family(self) -> list[psutil.Process]:
        """The process and all that descend from it."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def end(self) -> int:
        """Wait for the end; the exit code."""
        return self.process.wait(SECONDS)


@contextmanager
def running(file: Path, *arguments: str | Path, environment: Mapping[str, str] = {}) -> Iterator[Command]:
    """Run the real command line in a session of its own; whatever is left of it is killed at the end."""
    with file.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    command = Command(process, file)
    try:
        yield command
    finally:
        if process.poll() is None:
            for member in command.family():
                member.kill()
            process.wait()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Where to keep data. Not below `tmp_path`, which only root may pass, and PostgreSQL never is root."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o711)
        yield Path(parent) / "data"


def figure(output: str, name: str) -> int:
    """A number in the table of the verdict."""
    found = re.search(rf"^{name} +([\d,]+) *$", output, re.MULTILINE)
    assert found, f"no {name!r} in {output}"
    return int(found[1].replace(",", ""))


def test_every_row_is_right_whatever_the_environment_says(output: Path) -> None:
    environment = {
        "REDIS_URL": "redis://nowhere.invalid:1/0",
        "DATABASE_URL": "postgresql://nowhere.invalid/none",
        "PGSSLMODE": "require",
        "WORKER_PROJECTIONS": "no_such_module",
        "WORKER_FEED_PARTITIONS": "3",
        "WORKER_BATCH_STREAMS": "many",
    }
    with running(output, "demo", "--chats", "6", "--seconds", "3", environment=environment) as demo:
        demo.wait_for(WORKING)
        family = demo.family()
        assert demo.end() == 0
        assert demo.output.endswith("\nAll 6 rows are right.\n")
        assert figure(demo.output, "rows compared") == 6
        assert figure(demo.output, "wrong rows") == 0
        assert figure(demo.output, "events in the logs") > figure(demo.output, "events projected") > 0
        assert re.search(r"^checkpoint latency p99 +[\d.]+ m?s", demo.output, re.MULTILINE)
    assert not any(process.is_running() for process in family)


def test_killing_replicas_makes_no_row_wrong(output: Path) -> None:
    with running(output, "demo", "--chats", "6", "--seconds", "5", "--kill") as demo:
        assert demo.end() == 0
        assert demo.output.endswith("\nAll 6 rows are right.\n")
        assert figure(demo.output, "replicas killed") >= 3


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_and_all_its_processes(output: Path, ending: signal.Signals) -> None:
    with running(output, "demo", "--seconds", "600") as demo:
        demo.wait_for(WORKING)
        family = demo.family()
        assert len(family) > 4  # itself, two replicas and two servers
        demo.process.send_signal(ending)
        assert demo.end() == 130
        assert demo.output.endswith("\nInterrupted. Replicas and servers are stopped.\n")
        assert "Traceback" not in demo.output
    assert not any(process.is_running() for process in family)


def test_a_second_signal_makes_it_quick_and_leaves_nothing_either(output: Path) -> None:
    with running(output, "demo", "--seconds", "600") as demo:
        pid = demo.wait_for(r"replicas? \(pid (\d+)")[1]
        family = demo.family()
        os.kill(int(pid), signal.SIGSTOP)  # a replica that does not stop by itself
        demo.process.send_signal(signal.SIGINT)
        block_until(lambda: len(demo.family()) < len(family), "the other replica's end", SECONDS)
        demo.process.send_signal(signal.SIGINT)
        assert demo.end() == 130
        assert "Traceback" not in demo.output
    assert not any(process.is_running() for process in family)


def test_a_replica_that_ends_by_itself_fails_the_demo(output: Path) -> None:
    with running(output, "demo", "--seconds", "600") as demo:
        pid = demo.wait_for(r"replicas \(pid (\d+)")[1]
        family = demo.family()
        os.kill(int(pid), signal.SIGKILL)
        assert demo.end() == 1
        assert re.search(
            rf"replica-1 \(pid {pid}\) ended with exit code -9\. Its log ends with:\n", demo.output
        )
        assert "Traceback" not in demo.output
    assert not any(process.is_running() for process in family)


def test_kept_data_are_compared_again_the_next_time(output: Path, data_dir: Path) -> None:
    for rows in (4, 8):
        arguments = ("demo", "--chats", "4", "--seconds", "1", "--data-dir", data_dir)
        with running(output, *arguments) as demo:
            assert demo.end() == 0
            assert demo.output.endswith(f"\nAll {rows} rows are right.\n")


def test_damaged_rows_are_told_and_fail_the_demo(output: Path, data_dir: Path) -> None:
    arguments = ("demo", "--chats", "4", "--seconds", "4", "--data-dir", data_dir)
    with running(output, *arguments) as demo:
        demo.wait_for(WORKING)
        password = (data_dir / "password").read_text()
        port = int((data_dir / "postgresql.port").read_text())
        asyncio.run(execute(f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres", DAMAGE))
        assert demo.end() == 1
        wrong = figure(demo.output, "wrong rows")
        verb = "is" if wrong == 1 else "are"
        assert 0 < wrong <= 4
        assert demo.output.endswith(f"\n{wrong} of 4 rows {verb} wrong.\n")
        assert re.search(r"record_type +\S+ +damaged", demo.output)


def test_dev_prints_where_its_servers_are_and_projects_until_it_is_stopped(output: Path) -> None:
    environment = {
        "REDIS_URL": "redis://nowhere.invalid:1/0",
        "DATABASE_URL_FILE": "/nowhere/url",
        "WORKER_KEY_PREFIX": "mine:",
    }
    with running(output, "dev", environment=environment) as dev:
        redis_url = dev.wait_for(r"^REDIS_URL=(redis://\S+)\n")[1]
        database_url = dev.wait_for(r"\nDATABASE_URL=(postgresql://\S+)\n")[1]
        page = dev.wait_for(r"\nStatus page: http://127\.0\.0\.1:(\d+)/\n")
        asyncio.run(a_message_is_projected(redis_url, database_url))
        address = Address("127.0.0.1", int(page[1]))
        assert b"projection-worker" in asyncio.run(ask(address, "/")).body
        family = dev.family()
        dev.process.send_signal(signal.SIGTERM)
        assert dev.end() == 0
        assert dev.output.endswith("Stopped.\n")
        assert "Traceback" not in dev.output
    assert not any(process.is_running() for process in family)


def test_dev_fails_when_its_worker_does(output: Path) -> None:
    with running(output, "dev", environment={"WORKER_BATCH_STREAMS": "many"}) as dev:
        assert dev.end() == 1
        assert "WORKER_BATCH_STREAMS" in dev.output
        assert dev.output.endswith("The worker ended with exit code 2.\n")


async def execute(database_url: str, statements: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def a_message_is_projected(redis_url: str, database_url: str) -> None:
    """Append a message where the worker of `dev` was told to look, and wait for its row."""
    connection = await asyncpg.connect(database_url)
    try:
        async with Redis.from_url(redis_url) as redis:
            await emit(redis, "chat-1", "", "user_message", {"content": "Hello"}, keys=Keys("mine:"))

        async def projected() -> object:
            return await connection.fetchval("SELECT stream_id FROM stream_projections")

        assert await wait_until(projected, "the row of the message", SECONDS) == "chat-1"
    finally:
        await connection.close()
