"""A survey of a whole table: every row once, and the logs that have none; or a share of them."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.verifying import VerifyingReplica
from worker import Keys, survey
from worker.finding import Obstacle
from worker.log_scan import LogScan
from worker.survey import Survey, Surveyor

STREAMS = [f"chat-{number}" for number in range(40)]


@pytest.fixture
async def world(
    client: Redis, keys: Keys, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> VerifyingReplica:
    """Forty conversations, projected, that are walked through in many steps."""
    monkeypatch.setattr(survey, "_STEP", 7)
    world = VerifyingReplica(client, keys, engine)
    for stream_id in STREAMS:
        await world.append(stream_id, "user_message")
    await world.catch_up(*STREAMS)
    return world


async def take(world: VerifyingReplica, share: float = 1.0) -> tuple[Survey, int]:
    """A survey, and how many rows its progress told of."""
    found, advanced = Survey(limit=100), list[int]()
    surveyor = Surveyor(world.verifier, LogScan(world.redis, world.keys), world.store, advanced.append)
    await surveyor.survey_table(share, found)
    return found, sum(advanced)


async def test_every_row_is_compared_once(world: VerifyingReplica) -> None:
    found, advanced = await take(world)
    assert (found.rows_compared, found.wrong, advanced) == (len(STREAMS), 0, len(STREAMS))
    assert not found.obstacles


async def test_every_wrong_row_is_told_once(world: VerifyingReplica) -> None:
    await world.damage("UPDATE stream_projections SET name = 'x' WHERE stream_id IN ('chat-3', 'chat-33')")
    for stream_id in ("new-1", "new-2"):
        await world.append(stream_id, "user_message")
    await world.append("deltas", "assistant_delta")
    await world.damage("INSERT INTO stream_projections (stream_id) VALUES ('new-2'), ('made beforehand')")
    await world.admin.delete(world.keys.log("chat-7"))
    found, _ = await take(world)
    assert sorted(found.drifted) == ["chat-3", "chat-33", "new-1", "new-2"]
    assert sorted(f.stream_id for f in found.told) == ["chat-3", "chat-33", "chat-7", "new-1", "new-2"]
    assert (found.wrong, found.rows_compared) == (5, len(STREAMS) - 1)
    assert found.obstacles[Obstacle.GONE] == 1


async def test_wrong_rows_are_found_however_many_there_are(
    world: VerifyingReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_SUSPECTS_AT_ONCE", 10)
    await world.damage("UPDATE stream_projections SET name = 'x'")
    found, _ = await take(world)
    assert sorted(found.drifted) == sorted(STREAMS)


async def test_a_sample_takes_about_its_share(world: VerifyingReplica) -> None:
    compared = [(await take(world, 0.5))[0].rows_compared for _ in range(10)]
    assert min(compared) > 0
    assert max(compared) < len(STREAMS)
    assert 120 < sum(compared) < 280
