"""The law of replay: whoever folds logs, when and how often, the table is the newest version's fold of them.

Two replicas of the new version, one of the old and a rebuild work on the same streams. Each is halted between
loading rows and writing them for as long as the example likes, while events are appended, taken back, skipped
and trimmed, and conversations deleted. In the end everybody goes on, and the table must be the one of
`tests.reference.single_reader`, which knows nothing of all that.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.replay_moves import MOVES, Move
from tests.replaying import PAGE_BYTES, Lab
from tests.servers import RunningServers


@pytest.fixture
def lab(servers: RunningServers, database_url: str, keys_prefix: str) -> Iterator[Lab]:
    """One event loop and one set of connections for all examples of a test."""
    lab = Lab(servers.redis_url, database_url, keys_prefix)
    yield lab
    lab.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(MOVES, st.sampled_from(PAGE_BYTES))
def test_the_table_is_the_newest_fold_of_what_the_logs_are(
    lab: Lab, moves: list[Move], page_bytes: int
) -> None:
    lab.check(moves, page_bytes)
