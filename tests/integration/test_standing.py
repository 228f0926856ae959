"""How one stream stands, as the servers have it."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.letters import stop
from tests.projecting import Replica, run
from worker import EventId, Keys, Standing, StreamView
from worker.lag import Waiting
from worker.standing import look_at_stream


@pytest.fixture
async def replica(client: Redis, keys: Keys, engine: AsyncEngine) -> Replica:
    return Replica(client, keys, engine)


async def look(replica: Replica, stream_id: str = "a") -> StreamView:
    return await look_at_stream(strategies, replica.logs, replica.engine, stream_id)


async def test_a_stream_without_row_and_log_is_unknown(replica: Replica) -> None:
    view = await look(replica)
    assert (view.standing, view.row, view.position) == (Standing.UNKNOWN, None, None)


async def test_a_row_that_follows_its_log_has_caught_up(replica: Replica) -> None:
    await replica.append("a", "graph_plan", {"plan": {"root": {"searchName": "s"}}}, at="1-0")
    await replica.append("a", "assistant_delta", at="2-0")
    await replica.project("a")
    await run(replica.engine, "ALTER TABLE stream_projections ADD mine jsonb DEFAULT '[1]'")
    view = await look(replica)
    assert (view.standing, view.position, view.row_version) == (Standing.CAUGHT_UP, EventId(1, 0), 1)
    assert view.waiting == Waiting(0, counted=True, oldest=None)
    assert view.row is not None
    assert view.row["plan"] == {"root": {"searchName": "s"}}
    assert (view.row["stream_id"], view.row["generation"], view.row["mine"]) == ("a", 0, [1])
    assert view.row.keys() == (await replica.row("a") or {}).keys()
    assert (view.log_starts_at, view.trimmed, view.loss, view.would_be) == ("1-0", False, None, None)


async def test_events_that_wait_are_counted_and_the_oldest_told(replica: Replica) -> None:
    await replica.append_many("a", "user_message")
    await replica.project("a")
    await replica.append_many("a", "assistant_delta", "user_message", "user_message", first=2)
    view = await look(replica)
    assert view.standing is Standing.BEHIND
    assert view.waiting == Waiting(2, counted=True, oldest=EventId(3, 0))
    assert view.oldest_waiting_seconds == pytest.approx(view.looked_at - 0.003)


async def test_counting_what_waits_is_given_up_where_it_is_much(replica: Replica) -> None:
    await replica.append_many("a", *["user_message"] * 6_000)
    waiting = (await look(replica)).waiting
    assert waiting is not None
    assert not waiting.counted
    assert 1_000 <= waiting.events < 6_000


async def test_a_log_without_a_row_tells_the_row_that_would_be(replica: Replica) -> None:
    await replica.append_many("a", "user_message", "user_message")
    view = await look(replica)
    assert (view.standing, view.row) == (Standing.BEHIND, None)
    assert view.would_be is not None
    assert view.would_be.columns["message_count"] == 2


async def test_a_blocked_stream_tells_its_letter(replica: Replica) -> None:
    await replica.append_many("a", "user_message")
    await replica.project("a")
    await replica.append_many("a", "user_message", first=2)
    await stop(replica.engine, "a", "2-0")
    view = await look(replica)
    assert view.standing is Standing.BLOCKED
    assert view.letter is not None
    assert view.letter.event_id == EventId(2, 0)


@pytest.mark.parametrize(("event_id", "version"), [("1-0", 1), ("2-0", 2)])
async def test_a_stale_letter_blocks_nothing(replica: Replica, event_id: str, version: int) -> None:
    await replica.append_many("a", "user_message")
    await replica.project("a")
    await stop(replica.engine, "a", event_id, version=version)
    assert (await look(replica)).standing is Standing.CAUGHT_UP


async def test_a_log_that_lost_its_tail_has_diverged_from_its_row(replica: Replica) -> None:
    await replica.append_many("a", "user_message", "user_message")
    await replica.project("a")
    await replica.admin.xdel(replica.keys.log("a"), "2-0")
    view = await look(replica)
    assert (view.standing, view.waiting) == (Standing.DIVERGED, None)
    await replica.admin.delete(replica.keys.log("a"))
    assert (await look(replica)).standing is Standing.LOG_GONE


async def test_a_position_that_is_no_event_id_is_a_divergence(replica: Replica) -> None:
    await replica.append_many("a", "user_message")
    await replica.project("a")
    await run(replica.engine, "UPDATE stream_projections SET last_event_id = 'mine'")
    assert (await look(replica)).standing is Standing.DIVERGED


async def test_a_trimmed_log_is_told_with_what_is_gone(replica: Replica) -> None:
    await replica.append_many("a", "user_message", "user_message")
    await replica.project("a")
    await replica.append_many("a", "user_message", "user_message", first=3)
    await replica.admin.xtrim(replica.keys.log("a"), minid="2-0", approximate=False)
    view = await look(replica)
    assert (view.standing, view.trimmed, view.log_starts_at) == (Standing.BEHIND, False, "2-0")
    assert view.loss is not None
    await replica.admin.xtrim(replica.keys.log("a"), minid="4-0", approximate=False)
    view = await look(replica)
    assert (view.standing, view.trimmed) == (Standing.BEHIND, True)
    assert view.waiting == Waiting(1, counted=True, oldest=EventId(4, 0))


async def test_a_key_of_another_kind_is_unreadable(replica: Replica) -> None:
    await replica.admin.set(replica.keys.log("a"), "text")
    assert (await look(replica)).standing is Standing.UNREADABLE


async def test_what_other_streams_took_is_told(replica: Replica) -> None:
    await replica.append("a", "strategy_link", {"wdkStrategyId": 7, "isSaved": True}, at="1-0")
    await replica.append("b", "strategy_link", {"wdkStrategyId": 7}, at="2-0")
    await replica.append("a", "graph_cleared", at="3-0")
    await replica.append("a", "strategy_link", {"wdkStrategyId": 7}, at="4-0")
    await replica.project("a", "b")
    [taken] = (await look(replica)).taken
    assert (taken.event_id, taken.stream_id) == (EventId(2, 0), "b")
    [back] = (await look(replica, "b")).taken
    assert (back.event_id, back.stream_id) == (EventId(4, 0), "a")
    assert back.changes[0].before == 7
