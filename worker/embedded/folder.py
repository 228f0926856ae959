"""The folder that holds the servers' data: whose it is, and what an earlier process left in it.

A process that is killed cannot stop its servers. Its lock on the folder ends with it, though, so whoever gets
the lock next knows that servers still running there belong to nobody, and stops them.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from worker.embedded.process import POLL_SECONDS
from worker.errors import EmbeddedServerError

TEMPORARY_PREFIX = "projection-worker-servers-"
TEMPORARY_MARK = "temporary"  # a file: this folder may be removed when nobody holds its lock
MEMORY = Path("/dev/shm")  # Linux's; the folders made in it are private and have random names.
MEMORY_BYTES = 4 << 30
SERVER_NAMES = frozenset({"initdb", "postgres", "redis-server", "valkey-server"})
LEFTOVER_STOP_SECONDS = 30


@contextmanager
def locked_folder(data_dir: Path | None, *, durable: bool) -> Iterator[Path]:
    """A folder that no other process uses meanwhile: `data_dir`, which stays, or a temporary one, which goes.

    No server runs in it at the beginning.
    """
    if data_dir is None:
        on_disk = Path(tempfile.gettempdir()).resolve()
        for parent in {on_disk, MEMORY}:
            _remove_abandoned(parent)
        with _temporary_folder(on_disk if durable or not memory_has_room() else MEMORY) as folder:
            yield folder
        return
    folder = data_dir.expanduser().resolve()
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            folder.chmod(_folder_mode())
        lock = _lock(folder)
    except OSError as error:
        raise EmbeddedServerError(
            f"The servers' data cannot be kept in {folder}: {error}. Choose a folder that you may write to."
        ) from error
    with lock:
        stop_leftovers(folder)
        yield folder


def password_of(folder: Path) -> str:
    """The password of the servers in the folder, made at the first call and readable for its owner only."""
    path = folder / "password"
    if not path.exists():
        new = folder / "password.new"
        new.touch(mode=0o600)
        new.write_text(secrets.token_urlsafe(24))
        new.rename(path)  # as a whole: half a password would lock everybody out for good
    return path.read_text()


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    # It gets the name that `_remove_abandoned` looks for once it is locked, lest a process that starts at the
    # same time takes it for abandoned.
    unnamed = Path(tempfile.mkdtemp(prefix=f".{TEMPORARY_PREFIX}", dir=parent))
    folder = unnamed.with_name(unnamed.name.removeprefix("."))
    try:
        unnamed.chmod(_folder_mode())
        (unnamed / TEMPORARY_MARK).touch()
        with _lock(unnamed):
            unnamed.rename(folder)
            yield folder
    finally:
        shutil.rmtree(unnamed, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def memory_has_room() -> bool:
    """Whether there is a file system in memory that takes what PostgreSQL may write before it cleans up."""
    try:
        return os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES
    except FileNotFoundError:
        return False


def _folder_mode() -> int:
    """As root PostgreSQL runs under another account, which has to pass through."""
    return 0o711 if os.geteuid() == 0 else 0o700


def _lock(folder: Path) -> TextIO:
    """Take the folder's lock. It lasts until the file is closed, as the kernel does for a killed process."""
    lock = (folder / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with lock:
            lock.seek(0)
            holder = lock.read() or "that just started"
        raise EmbeddedServerError(
            f"{folder} is in use by process {holder}: end that first, or choose another folder."
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def stop_leftovers(folder: Path) -> None:
    """Stop the servers that run in the folder. Only the holder of its lock may do so."""
    for stop_signal in (signal.SIGINT, signal.SIGKILL):
        for pid in _servers_in(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, stop_signal)
        deadline = time.monotonic() + LEFTOVER_STOP_SECONDS
        while pids := _servers_in(folder):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        else:
            return
    raise EmbeddedServerError(f"Servers from an earlier run in {folder} do not end: {pids}.")


def _servers_in(folder: Path) -> list[int]:
    """The pids of the servers that work in the folder, without their own children.

    Their pid files are no help: the number in one may be that of any other process by now.
    """
    import psutil  # it comes with the wheels, which are optional

    parents = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # gone, a zombie, or another user's
            if process.name() in SERVER_NAMES and folder in Path(process.cwd()).parents:
                parents[process.pid] = process.ppid()
    return [pid for pid, parent in parents.items() if parent not in parents]


def _remove_abandoned(parent: Path) -> None:
    """Remove the temporary folders of processes that were killed, and stop the servers in them."""
    for mark in parent.glob(f"{TEMPORARY_PREFIX}*/{TEMPORARY_MARK}"):
        folder = mark.parent
        # Whatever stands in the way here (another user's folder, one just going) is no reason not to start.
        with suppress(OSError, EmbeddedServerError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            with _lock(folder):
                stop_leftovers(folder)
                shutil.rmtree(folder)
