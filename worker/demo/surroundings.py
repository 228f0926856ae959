"""The servers of a demo, and the settings of whatever works with them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from worker.embedded import Servers, embedded_servers
from worker.migrate import migrate
from worker.settings import URL_FILES, Settings, variable

RUN_COMMAND = (sys.executable, "-P", "-m", "worker", "run")
"""How a worker is run. With -P a folder named "worker" where the demo was started is not taken for ours."""

_REPLICA_SETTINGS: Mapping[str, Any] = {
    # Shorter than by default: the demo ends when the last event is projected, hinted or not.
    "sweep_seconds": 2.0,
    "claim_after_seconds": 5.0,
    "shutdown_seconds": 5.0,
    "http_address": "",  # There are several on this host.
    "log_format": "console",  # For whoever reads the end of a replica's log.
}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`settings` are those of the replicas and of the demo itself; the environment has no say in them.

    `environment` is what a replica's process gets; `folder` is for its log.
    """

    settings: Settings
    environment: Mapping[str, str]
    folder: Path
    durable: bool


class _GivenSettings(Settings):
    """Settings from arguments and defaults alone."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


@contextmanager
def migrated_servers(data_dir: Path | None) -> Iterator[Servers]:
    """Both servers with the current schema. What is not kept need not survive a power failure."""
    with embedded_servers(data_dir, durable=data_dir is not None) as servers:
        migrate(without_tls(servers.database_url))
        yield servers


@contextmanager
def surroundings(data_dir: Path | None) -> Iterator[Surroundings]:
    """Start everything that replicas need. Their logs go to the data folder, or to a temporary one."""
    with ExitStack() as stack:
        servers = stack.enter_context(migrated_servers(data_dir))
        folder = data_dir.expanduser() / "replicas" if data_dir else None
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="projection-worker-demo-")))
        folder.mkdir(exist_ok=True)
        given = {
            "redis_url": servers.redis_url,
            "database_url": without_tls(servers.database_url),
            **_REPLICA_SETTINGS,
        }
        yield Surroundings(
            settings=_GivenSettings(**given),
            environment=replica_environment(os.environ, given),
            folder=folder,
            durable=data_dir is not None,
        )


NAMES_OF_SERVERS = {*URL_FILES, *URL_FILES.values()}
"""The variables that say where the servers are."""


def replica_environment(environ: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, str]:
    """The environment of a replica: the user's, except for what would send it to other servers."""
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith(("WORKER_", "PG")) and name not in NAMES_OF_SERVERS
    }
    return (
        kept | {"PYTHONPATH": python_path()} | {variable(name): str(value) for name, value in given.items()}
    )


def python_path() -> str:
    """The variable PYTHONPATH of a process that is to find the modules that this one finds."""
    return os.pathsep.join(folder for folder in sys.path if folder)


def without_tls(database_url: str) -> str:
    """The embedded server offers none, and PGSSLMODE in the user's environment may ask for it."""
    return f"{database_url}?sslmode=disable"
