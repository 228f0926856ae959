"""What the sweep makes of conversations that were deleted, wholly or in part."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.projecting import run
from tests.sweeping import SweepingReplica
from worker import Keys, sweep

DELETE_B = "DELETE FROM stream_projections WHERE stream_id = 'b'"


@pytest.fixture
def replica(client: Redis, keys: Keys, engine: AsyncEngine) -> SweepingReplica:
    return SweepingReplica(client, keys, engine)


@pytest.fixture
async def claimed(replica: SweepingReplica) -> SweepingReplica:
    """Two streams that were projected; the second has taken a strategy from the first."""
    await replica.append("a", "strategy_link", {"wdkStrategyId": 7, "isSaved": True}, at="1-0")
    await replica.append("b", "strategy_link", {"wdkStrategyId": 7}, at="2-0")
    await replica.sweep()
    assert await holders(replica) == {"a": (None, False), "b": (7, False)}
    return replica


async def holders(replica: SweepingReplica) -> dict[str, tuple[int | None, bool]]:
    """What readers see of every stream."""
    async with replica.engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT stream_id, wdk_strategy_id, is_saved FROM stream_projections")
        )
        return {row[0]: (row[1], row[2]) for row in rows}


async def claimants(replica: SweepingReplica) -> set[str]:
    async with replica.engine.connect() as connection:
        return {row[0] for row in await connection.execute(text("SELECT stream_id FROM strategy_claims"))}


async def test_the_claims_of_a_deleted_conversation_are_given_back(claimed: SweepingReplica) -> None:
    await claimed.admin.delete(claimed.keys.log("b"))
    await run(claimed.engine, DELETE_B)
    await claimed.sweep()
    assert await holders(claimed) == {"a": (7, True)}
    assert await claimants(claimed) == {"a"}


async def test_a_conversation_of_which_only_the_log_is_deleted_keeps_its_claims(
    claimed: SweepingReplica,
) -> None:
    await claimed.admin.delete(claimed.keys.log("b"))
    report, _ = await claimed.sweep()
    assert report.vanished == 1
    assert await holders(claimed) == {"a": (None, False), "b": (7, False)}


async def test_a_conversation_of_which_only_the_row_is_deleted_keeps_its_claims(
    claimed: SweepingReplica,
) -> None:
    await run(claimed.engine, DELETE_B)
    await claimed.sweep()
    assert await claimants(claimed) == {"a", "b"}


async def test_a_conversation_that_begins_anew_under_the_same_name_has_only_its_new_claims(
    claimed: SweepingReplica,
) -> None:
    await claimed.admin.delete(claimed.keys.log("b"))
    await run(claimed.engine, DELETE_B)
    await claimed.append("b", "strategy_link", {"wdkStrategyId": 8}, at="9-0")
    await claimed.sweep()
    await claimed.sweep()
    assert await holders(claimed) == {"a": (7, True), "b": (8, False)}


async def test_a_row_that_was_deleted_by_hand_comes_back_when_the_sweep_looks_again(
    claimed: SweepingReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(claimed.engine, DELETE_B)
    await claimed.sweep()
    assert "b" not in await holders(claimed)
    monkeypatch.setattr(claimed.sweeper, "_forget_at", 0.0)
    assert (await claimed.sweep())[1] == {"b"}
    assert await holders(claimed) == {"a": (None, False), "b": (7, False)}


async def test_a_row_that_was_set_back_by_hand_is_folded_anew_when_the_sweep_looks_again(
    claimed: SweepingReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(claimed.engine, "UPDATE stream_projections SET last_event_id = NULL, name = 'x'")
    monkeypatch.setattr(claimed.sweeper, "_forget_at", 0.0)
    assert (await claimed.sweep())[1] == {"a", "b"}
    assert await claimed.positions("a", "b") == ["1-0", "2-0"]
    assert await holders(claimed) == {"a": (None, False), "b": (7, False)}


async def test_however_many_rows_there_are_every_vanished_log_is_noticed(
    replica: SweepingReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_STEP_ROWS", 3)
    monkeypatch.setattr(sweep, "_ROWS_A_SWEEP", 6)
    streams = [f"s{number:02}" for number in range(20)]
    for stream_id in streams:
        await replica.append_many(stream_id, "user_message")
    await replica.sweep()
    for stream_id in streams[::2]:
        await replica.admin.delete(replica.keys.log(stream_id))
    queued: set[str] = set()
    for _ in range(5):
        queued |= (await replica.sweep())[1]
    assert queued == set(streams[::2])
