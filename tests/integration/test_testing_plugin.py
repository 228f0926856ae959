"""The pytest plugin, in a suite of somebody else's: in a process and a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import RunningServers

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder for a suite, where asyncio is the plugin for async tests and warnings are errors."""
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        "filterwarnings = error\n"
    )
    return tmp_path


@pytest.fixture
def run(suite: Path, tmp_path_factory: pytest.TempPathFactory, servers: RunningServers) -> Run:
    """Runs the suite as if the package were installed, with its plugin."""
    installed = tmp_path_factory.mktemp("installed")
    for source, name in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].items():
        (installed / name).write_text((ROOT / source).read_text(encoding="utf-8"))
    info = installed / "projection_worker_here-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: projection-worker-here\nVersion: 1\n")
    [entry] = PROJECT["project"]["entry-points"]["pytest11"].items()
    (info / "entry_points.txt").write_text(f"[pytest11]\n{entry[0]} = {entry[1]}\n")

    def run(**env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"],
            cwd=suite,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(installed), str(suite), str(ROOT)]),
                "TEST_REDIS_URL": servers.admin_redis_url,
                "TEST_DATABASE_URL": servers.database_url,
                **env,
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_a_suite_that_uses_no_fixture_does_not_load_the_package(suite: Path, run: Run) -> None:
    (suite / "test_it.py").write_text("def test_it(): pass\n")
    (suite / "conftest.py").write_text(
        "import sys\n"
        "def pytest_sessionfinish(session):\n"
        "    assert session.config.pluginmanager.get_plugin('projection_worker')\n"
        "    assert not {'worker', 'sqlalchemy', 'redis', 'asyncpg', 'structlog'} & sys.modules.keys()\n"
    )
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr


def test_tables_may_be_made_by_migrations_of_ones_own(suite: Path, run: Run) -> None:
    (suite / "conftest.py").write_text(
        "import asyncio, asyncpg, pytest\n"
        "async def migrate(url):\n"
        "    connection = await asyncpg.connect(url)\n"
        "    await connection.execute(\n"
        "        'CREATE TABLE tallies (stream_id text PRIMARY KEY, last_event_id text,'\n"
        "        'first_event_id text, updated_at timestamptz, generation int DEFAULT 0,'\n"
        "        'version int NOT NULL DEFAULT 0,'\n"
        "        'total int NOT NULL, note text, numbers jsonb, made_by text DEFAULT $$me$$)')\n"
        "    await connection.close()\n"
        "@pytest.fixture(scope='session')\n"
        "def projection_tables():\n"
        "    return lambda url: asyncio.run(migrate(url))\n"
    )
    (suite / "test_it.py").write_text(
        "from sqlalchemy import text\n"
        "from tests.tallies import tallies\n"
        "async def test_it(projection_world):\n"
        "    async with projection_world(tallies()) as world:\n"
        "        await world.emit('a', 'add', n=3)\n"
        "        await world.caught_up()\n"
        "        async with world.engine.connect() as connection:\n"
        "            found = await connection.execute(text('SELECT total, made_by FROM tallies'))\n"
        "            assert tuple(found.one()) == (3, 'me')\n"
    )
    done = run()
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_what_is_missing_is_told_in_a_sentence(suite: Path, run: Run) -> None:
    (suite / "test_it.py").write_text("def test_it(projection_world): pass\n")
    done = run(TEST_DATABASE_URL="")
    assert "Set both TEST_REDIS_URL and TEST_DATABASE_URL, or neither of them." in done.stdout
    assert "Traceback" not in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("TEST_REDIS_URL", "redis://localhost:1/0"),
        ("TEST_REDIS_URL", "nonsense"),
        ("TEST_DATABASE_URL", "postgresql://localhost:1/name"),
        ("TEST_DATABASE_URL", "nonsense"),
    ],
)
def test_a_server_that_does_not_answer_is_told_in_a_sentence(
    suite: Path, run: Run, variable: str, url: str
) -> None:
    (suite / "test_it.py").write_text("def test_it(projection_world): pass\n")
    done = run(**{variable: url})
    assert f"The server that {variable} names could not be reached or refused: " in done.stdout
    assert "Traceback" not in done.stdout
    assert "servers.py" not in done.stdout


def test_a_failure_shows_the_test_and_none_of_the_kit(suite: Path, run: Run) -> None:
    (suite / "test_it.py").write_text(
        "from tests.tallies import tallies\n"
        "from worker.testing import event, given\n"
        "def test_it():\n"
        "    given(tallies(), event('add', n=1)).then(total=2)\n"
    )
    done = run()
    assert "total: expected 2, found 1" in done.stdout
    assert "scenario.py" not in done.stdout
