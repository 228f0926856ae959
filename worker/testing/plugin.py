"""The pytest plugin: the fixture ``projection_world``, for tests of projections on real servers.

It is there wherever the package is installed, under a module name of its own, ``pytest_projection_worker``,
so that pytest can load it without the package: suites that do not use the fixtures pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from worker.embedded import Servers
    from worker.testing.servers import Databases
    from worker.testing.worlds import Worlds


@pytest.fixture(scope="session")
def projection_servers() -> Iterator[Servers]:
    """A Redis and a PostgreSQL server for the whole run.

    Those that TEST_REDIS_URL and TEST_DATABASE_URL name, or the embedded ones of the extra ``testing``.
    """
    from contextlib import ExitStack

    from worker.errors import ProjectionWorkerError
    from worker.testing.servers import servers_for_tests

    with ExitStack() as running:
        try:
            servers = running.enter_context(servers_for_tests())
        except ProjectionWorkerError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        yield servers


@pytest.fixture(scope="session")
def projection_tables() -> Callable[[str], object] | None:
    """What makes your tables in the database of a URL, such as your migrations; called once in a run.

    Override it in your ``conftest.py``. None: tables are made of the models, as ``metadata.create_all`` does.
    """
    return None


@pytest.fixture(scope="session")
def projection_databases(
    projection_servers: Servers, projection_tables: Callable[[str], object] | None
) -> Iterator[Databases]:
    """Where tests get their databases from."""
    from worker.testing.servers import Databases

    databases = Databases(projection_servers.database_url, projection_tables)
    yield databases
    databases.close()


@pytest.fixture
def projection_world(
    projection_servers: Servers,
    projection_databases: Databases,
    projection_tables: Callable[[str], object] | None,
) -> Iterator[Worlds]:
    """``async with projection_world(projection) as world``: a worker with a database and keys of its own."""
    from worker.testing.worlds import Worlds

    worlds = Worlds(projection_servers, projection_databases, create_tables=projection_tables is None)
    yield worlds
    worlds.close()
