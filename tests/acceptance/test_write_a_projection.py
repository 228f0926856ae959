"""README's chapter "Write a projection", followed literally, from an empty folder to the rows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.commands import environment
from tests.servers import RunningServers
from worker.testing.servers import Databases

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "examples" / "orders"
FILES = ("models.py", "__init__.py", "test_orders.py")


def chapter() -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.split("\n## Write a projection\n", 1)[1].split("\n## ", 1)[0]


def file_blocks() -> dict[str, str]:
    """The files that the chapter shows, without the line that names them."""
    return dict(re.findall(r"```python\n# orders/(\S+)\n(.*?)```", chapter(), re.DOTALL))


def commands(about: str) -> str:
    """The commands for the tests, or for the rows."""
    [found] = re.findall(rf"```sh\n# for the {about}\n(.*?)```", chapter(), re.DOTALL)
    return str(found)


@pytest.mark.parametrize("name", FILES)
def test_readme_shows_the_example_as_it_is(name: str) -> None:
    assert file_blocks()[name] == (EXAMPLE / name).read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with the chapter's package in it."""
    package = tmp_path / "orders"
    package.mkdir()
    for name, source in file_blocks().items():
        (package / name).write_text(source, encoding="utf-8")
    return tmp_path


@pytest.fixture
def empty_database(servers: RunningServers) -> Iterator[str]:
    databases = Databases(servers.database_url)
    url = databases.create()
    yield url
    databases.drop(url)
    databases.close()


def in_folder(folder: Path, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run commands as somebody would who has installed the package, and end what they started."""
    bash = shutil.which("bash")
    assert bash is not None
    commands = Path(sys.executable).parent
    script = f'export PATH="{commands}:$PATH"\nset -e\n{script}\nkill $(jobs -p) 2>/dev/null || true\nwait\n'
    return subprocess.run(
        [bash, "-c", script],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_from_an_empty_folder_to_rows(
    folder: Path, servers: RunningServers, empty_database: str, keys_prefix: str
) -> None:
    *before, show = commands("rows").strip().splitlines()
    wait = "until projection-worker show 17 --json | grep -q paid; do sleep 0.1; done"
    found = in_folder(
        folder,
        "\n".join([*before, wait, f"{show} --json", "projection-worker verify --projection orders --json"]),
        REDIS_URL=servers.admin_redis_url,
        DATABASE_URL=empty_database,
        WORKER_KEY_PREFIX=keys_prefix,
        WORKER_LOG_LEVEL="warning",
    )
    assert found.returncode == 0, found.stdout + found.stderr
    decoder = json.JSONDecoder()
    shown, _ = decoder.raw_decode(found.stdout, found.stdout.index("{\n"))
    assert shown["row"]["customer"] == "Ada", found.stdout
    assert shown["row"]["total_cents"] == 840
    assert shown["child_rows"] == {"lines": 1}
    assert list((folder / "orders" / "migrations").glob("*_orders_and_their_lines.py"))


def test_the_tests_of_the_chapter_pass(folder: Path, servers: RunningServers) -> None:
    test = commands("tests").splitlines()[-1]
    found = in_folder(
        folder,
        f"{test} -p no:cacheprovider",
        PYTHONWARNINGS="",  # whatever other plugins are installed here
        TEST_REDIS_URL=servers.admin_redis_url,
        TEST_DATABASE_URL=servers.database_url,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "6 passed" in found.stdout
