"""Servers that a test may break, with what workers need on them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.own_servers import OwnServer, own_postgresql
from worker.migrate import migrate


@pytest.fixture
def postgresql() -> Iterator[OwnServer]:
    """A server of this test's own, with the schema."""
    with own_postgresql() as server:
        migrate(server.url)
        yield server
