"""Rebuilding single streams: rows replaced by the fold of their logs, and those that must not be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.logs import hints_of
from tests.projecting import run, statements, without
from tests.rebuilding import RebuildingReplica
from tests.versions import WEIGHT, failing, of_version
from worker import Keys, rebuild_streams
from worker.blocked import Block
from worker.dead_letters import find_letters
from worker.events import EventId
from worker.judgement import Refusal
from worker.letters import Letter, Reason, State
from worker.outcome import Outcome

KEPT = {"generation"}


@pytest.fixture
def replica(client: Redis, keys: Keys, engine: AsyncEngine) -> RebuildingReplica:
    return RebuildingReplica(client, keys, engine)


def of(replica: RebuildingReplica, version: int, **handlers: Any) -> RebuildingReplica:
    """A replica of another version on the same servers."""
    return RebuildingReplica(replica.redis, replica.keys, replica.engine, of_version(version, **handlers))


async def projected(replica: RebuildingReplica, *types: str, stream_id: str = "a") -> dict[str, Any]:
    await replica.append_many(stream_id, *types)
    await replica.project(stream_id)
    row = await replica.row(stream_id)
    assert row is not None
    return row


async def cut(replica: RebuildingReplica, *event_ids: str) -> None:
    await replica.admin.xdel(replica.keys.log("a"), *event_ids)


# Rows that are replaced.


async def test_a_rebuild_mends_what_was_damaged_and_leaves_columns_of_others_alone(
    replica: RebuildingReplica,
) -> None:
    await run(replica.engine, "ALTER TABLE stream_projections ADD COLUMN colour text")
    row = await projected(replica, "user_message", "assistant_message", "graph_plan")
    await run(
        replica.engine,
        """UPDATE stream_projections SET name = 'x', message_count = 77, plan = '[1]', model_id = 'y',
           steps = '[2]', step_count = 5, own_is_saved = true, is_saved = true, updated_at = now(),
           first_event_id = NULL, colour = 'red'""",
    )
    rebuilt = await replica.rebuild("a")
    assert (rebuilt.refusal, rebuilt.events, rebuilt.position) == (None, 3, "3-0")
    mended = await replica.row("a")
    assert without(mended, KEPT) == without(row, KEPT) | {"colour": "red"}
    assert mended is not None
    assert mended["generation"] == row["generation"] + 1


async def test_a_stream_without_a_row_gets_one(replica: RebuildingReplica) -> None:
    await replica.append_many("a", "user_message")
    assert (await replica.rebuild("a")).position == "1-0"
    row = await replica.row("a")
    assert row is not None
    assert row["message_count"] == 1


@pytest.mark.parametrize("types", [(), ("assistant_delta",)])
async def test_where_there_is_nothing_to_fold_no_row_is_made(
    replica: RebuildingReplica, types: tuple[str, ...]
) -> None:
    await replica.append_many("a", *types)
    for deliberate in (False, True):
        assert (await replica.rebuild("a", deliberate=deliberate)).refusal is None
    assert await replica.row("a") is None


async def test_what_was_in_a_cache_is_not_written_over_a_rebuild(replica: RebuildingReplica) -> None:
    await projected(replica, "user_message")
    await run(replica.engine, "UPDATE stream_projections SET message_count = 7")
    await replica.rebuild("a")
    await replica.append("a", "user_message", at="2-0")
    assert await replica.project("a") == [Outcome.LOST]
    await replica.project("a")
    row = await replica.row("a")
    assert row is not None
    assert (row["message_count"], row["last_event_id"]) == (2, "2-0")


async def test_workers_are_told_of_streams_that_go_on_and_of_no_other(replica: RebuildingReplica) -> None:
    """What they have acknowledged while a stream was stopped, they would not look at again."""
    for stream_id in ("a", "b", "c"):
        await projected(replica, "user_message", "user_message", stream_id=stream_id)
    await cut(replica, "2-0")
    await replica.diverged.add("a", "2-0")
    await run(
        replica.engine,
        """INSERT INTO dead_letters
               (projection, stream_id, event_id, event_type, version, state, reason, error)
           VALUES ('strategies', 'b', '3-0', 'user_message', 1, 'open', 'handler_failed', '')""",
    )
    for stream_id, hints in ("a", 1), ("b", 1), ("c", 0):
        assert (await replica.rebuild_deliberately(stream_id)).refusal is None
        assert len(await hints_of(replica.redis, replica.keys, stream_id)) == hints
    assert await replica.diverged.count() == 0


async def test_a_row_that_moves_while_it_is_rebuilt_is_read_on(
    replica: RebuildingReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await projected(replica, "user_message")
    moves = iter(range(2, 6))
    write = replica.store.write

    async def after_a_move(writes: Any) -> Any:
        if at := next(moves, None):
            await replica.append("a", "user_message", at=f"{at}-0")
            while await replica.project("a") != [Outcome.CAUGHT_UP]:
                pass
        return await write(writes)

    monkeypatch.setattr(replica.rebuilder._writer, "_store", _Store(after_a_move))
    rebuilt = await replica.rebuild("a")
    assert (rebuilt.refusal, rebuilt.position, rebuilt.events) == (None, "5-0", 5)
    row = await replica.row("a")
    assert row is not None
    assert (row["message_count"], row["generation"]) == (5, 1)


class _Store:
    """A store whose write is another."""

    def __init__(self, write: Any) -> None:
        self.write = write


async def test_live_projection_and_rebuilds_at_once_lose_nothing(replica: RebuildingReplica) -> None:
    await projected(replica, "user_message")
    others = [RebuildingReplica(replica.redis, replica.keys, replica.engine) for _ in range(3)]

    async def live() -> None:
        for number in range(2, 60):
            await replica.append("a", "user_message", at=f"{number}-0")
            while await replica.project("a") != [Outcome.CAUGHT_UP]:
                pass

    async def rebuild(other: RebuildingReplica) -> None:
        for _ in range(10):
            assert (await other.rebuild("a")).refusal is None

    await asyncio.gather(live(), *(rebuild(other) for other in others))
    row = await replica.row("a")
    assert row is not None
    assert (row["message_count"], row["last_event_id"], row["generation"]) == (59, "59-0", 30)


async def test_a_row_that_others_keep_locked_is_busy(
    replica: RebuildingReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.rebuild._MOST_ATTEMPTS", 3)
    row = await projected(replica, "user_message")
    async with replica.engine.begin() as connection:
        await connection.exec_driver_sql("SELECT * FROM stream_projections FOR UPDATE")
        assert (await replica.rebuild("a")).refusal is Refusal.BUSY
    assert await replica.row("a") == row


async def test_skipped_events_stay_skipped_and_passed_ones_are_passed_again(
    replica: RebuildingReplica,
) -> None:
    await replica.append("a", "user_message", at="1-0")
    await replica.append("a", "user_message", at="2-0")
    await replica.append("a", "strategy_meta", "no JSON", at="3-0")
    await run(
        replica.engine,
        """INSERT INTO dead_letters
               (projection, stream_id, event_id, event_type, version, state, reason, error)
           VALUES ('strategies', 'a', '2-0', 'user_message', 1, 'skipped', 'handler_failed', ''),
                  ('strategies', 'a', '1-0', 'user_message', 1, 'passed', 'rejected', 'too strict')""",
    )
    rebuilt = await replica.rebuild("a")
    assert (rebuilt.events, rebuilt.position) == (1, "3-0")
    row = await replica.row("a")
    assert row is not None
    assert row["message_count"] == 1
    await replica.rebuild("a")
    states = {str(letter.event_id): letter.state for letter in await find_letters(replica.engine)}
    assert states == {"1-0": State.RESOLVED, "2-0": State.SKIPPED, "3-0": State.PASSED}


# Undo: entries deleted on purpose.


@pytest.mark.parametrize("new", [False, True], ids=["nothing new", "with news"])
async def test_an_undo_takes_the_row_back(replica: RebuildingReplica, new: bool) -> None:
    await replica.append("a", "user_message", at="1-0")
    await replica.append("a", "strategy_link", {"wdkStrategyId": 7, "isSaved": True}, at="2-0")
    await replica.append("a", "user_message", at="3-0")
    await replica.project("a")
    await cut(replica, "2-0", "3-0")
    assert await replica.project("a") == [Outcome.LOST]
    assert await replica.project("a") == [Outcome.DIVERGED]
    assert (await replica.rebuild("a")).refusal is Refusal.DIVERGED
    rebuilt = await replica.rebuild_deliberately("a")
    assert (rebuilt.refusal, rebuilt.position) == (None, "1-0")
    row = await replica.row("a")
    assert row is not None
    assert (row["message_count"], row["wdk_strategy_id"], row["is_saved"]) == (1, None, False)
    if new:
        await replica.append("a", "user_message", at="4-0")
    await replica.project("a")
    assert await replica.project("a") == [Outcome.CAUGHT_UP]
    assert await replica.positions("a") == ["4-0" if new else "1-0"]


async def test_an_undo_gives_a_strategy_back_to_whom_it_was_taken_from(replica: RebuildingReplica) -> None:
    await replica.append("b", "strategy_link", {"wdkStrategyId": 7}, at="1-0")
    await replica.append("a", "user_message", at="1-0")
    await replica.append("a", "strategy_link", {"wdkStrategyId": 7}, at="2-0")
    await replica.project("a", "b")
    await cut(replica, "2-0")
    await replica.rebuild_deliberately("a")
    row = await replica.row("b")
    assert row is not None
    assert row["wdk_strategy_id"] == 7


async def test_an_undo_of_everything_leaves_an_empty_row(replica: RebuildingReplica) -> None:
    await run(replica.engine, "ALTER TABLE stream_projections ADD COLUMN colour text")
    await projected(replica, "strategy_meta", "user_message")
    await run(replica.engine, "UPDATE stream_projections SET colour = 'red'")
    await cut(replica, "1-0", "2-0")
    assert (await replica.rebuild_deliberately("a")).position is None
    row = await replica.row("a")
    assert row is not None
    assert (row["last_event_id"], row["message_count"], row["updated_at"]) == (None, 0, None)
    assert row["colour"] == "red"
    await replica.append("a", "user_message", at="5-0")
    await replica.project("a")
    assert await replica.project("a") == [Outcome.CAUGHT_UP]
    row = await replica.row("a")
    assert row is not None
    assert (row["last_event_id"], row["first_event_id"], row["message_count"]) == ("5-0", "5-0", 1)


@pytest.mark.parametrize("row", [False, True], ids=["no row", "a row without a position"])
async def test_an_undo_before_the_first_write_wins_over_it(replica: RebuildingReplica, row: bool) -> None:
    """A replica has read the log before the undo, and comes to write the row after it."""
    if row:
        await run(replica.engine, "INSERT INTO stream_projections (stream_id) VALUES ('a')")
    await replica.append_many("a", "user_message")
    write = replica.store.write

    async def after_an_undo(writes: Any) -> Any:
        await cut(replica, "1-0")
        await RebuildingReplica(replica.redis, replica.keys, replica.engine).rebuild_deliberately("a")
        return await write(writes)

    replica.store.write = after_an_undo  # type: ignore[method-assign]
    assert await replica.project("a") == [Outcome.LOST]
    assert await replica.positions("a") == [None]


async def test_large_rows_are_replaced_in_several_transactions(
    replica: RebuildingReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.batch_writer._WRITE_BYTES", 200)
    streams = [f"s{number}" for number in range(5)]
    for stream_id in streams:
        await replica.append(stream_id, "strategy_meta", {"name": "x" * 120})
    with statements(replica.engine) as sent:
        rebuilt = await replica.rebuilder.rebuild(streams)
    assert sent.count("INSERT") == 5
    assert [of.refusal for of in rebuilt] == [None] * 5


# Logs that have lost something.


async def test_a_log_that_lost_its_tail_is_rebuilt_only_by_force(replica: RebuildingReplica) -> None:
    row = await projected(replica, "user_message", "user_message")
    await replica.admin.delete(replica.keys.log("a"))
    await replica.append_many("a", "user_message")
    for deliberate in (False, True):
        rebuilt = await replica.rebuild("a", deliberate=deliberate)
        assert rebuilt.refusal is Refusal.DIVERGED
        assert "--accept-loss" in rebuilt.detail
    assert await replica.row("a") == row
    assert (await replica.rebuild("a", accept_loss=True)).position == "1-0"
    assert await replica.positions("a") == ["1-0"]


async def test_a_log_that_lost_its_tail_and_went_on_is_rebuilt_only_by_force(
    replica: RebuildingReplica,
) -> None:
    row = await projected(replica, "user_message", "user_message")
    await replica.admin.delete(replica.keys.log("a"))
    await replica.append("a", "user_message", at="1-0")
    await replica.append("a", "user_message", at="3-0")
    assert (await replica.rebuild_deliberately("a")).refusal is Refusal.DIVERGED
    assert await replica.row("a") == row


async def test_a_trimmed_log_is_rebuilt_only_by_force(replica: RebuildingReplica) -> None:
    row = await projected(replica, "user_message", "user_message", "user_message")
    await replica.admin.xtrim(replica.keys.log("a"), maxlen=2, approximate=False)
    for deliberate in (False, True):
        assert (await replica.rebuild("a", deliberate=deliberate)).refusal is Refusal.TRIMMED
    assert await replica.row("a") == row
    assert (await replica.rebuild("a", accept_loss=True)).refusal is None
    row = await replica.row("a") or {}
    assert (row["message_count"], row["first_event_id"]) == (2, "2-0")
    assert (await replica.rebuild("a")).refusal is None


async def test_a_row_whose_log_is_gone_is_emptied_only_by_force(replica: RebuildingReplica) -> None:
    row = await projected(replica, "user_message")
    await replica.admin.delete(replica.keys.log("a"))
    for deliberate in (False, True):
        assert (await replica.rebuild("a", deliberate=deliberate)).refusal is Refusal.GONE
    assert await replica.row("a") == row
    assert (await replica.rebuild("a", accept_loss=True)).refusal is None
    assert await replica.positions("a") == [None]


async def test_a_key_that_is_no_stream_is_never_taken_for_a_log(replica: RebuildingReplica) -> None:
    row = await projected(replica, "user_message")
    await replica.admin.set(replica.keys.log("a"), "text")
    assert (await replica.rebuild("a", accept_loss=True, deliberate=True)).refusal is Refusal.UNREADABLE
    assert await replica.row("a") == row


async def test_a_position_that_is_no_event_id_is_overwritten_only_by_force(
    replica: RebuildingReplica,
) -> None:
    await projected(replica, "user_message")
    await run(replica.engine, "UPDATE stream_projections SET last_event_id = 'mine'")
    assert (await replica.rebuild_deliberately("a")).refusal is Refusal.DIVERGED
    assert (await replica.rebuild("a", accept_loss=True)).position == "1-0"


async def test_what_postgresql_refuses_is_told_and_the_others_are_rebuilt(
    replica: RebuildingReplica,
) -> None:
    for stream_id in ("a", "b", "c"):
        await projected(replica, "user_message", stream_id=stream_id)
    await run(
        replica.engine,
        "ALTER TABLE stream_projections ADD CHECK (stream_id <> 'b' OR message_count < 2) NOT VALID",
        "UPDATE stream_projections SET message_count = 0",
    )
    await replica.append("b", "user_message", at="2-0")
    results = {r.stream_id: r.refusal for r in await replica.rebuilder.rebuild(["a", "b", "c"])}
    assert results == {"a": None, "b": Refusal.ROW_REFUSED, "c": None}


# Versions.


async def test_a_rebuild_brings_rows_up_to_the_running_version(replica: RebuildingReplica) -> None:
    await projected(replica, "user_message", "assistant_message")
    assert (await of(replica, 2).rebuild("a")).refusal is None
    row = await replica.row("a")
    assert row is not None
    assert (row["version"], row["message_count"]) == (2, WEIGHT + 1)


async def test_a_rebuild_leaves_rows_of_a_newer_version_alone(replica: RebuildingReplica) -> None:
    row = await projected(of(replica, 2), "user_message")
    rebuilt = await replica.rebuild("a", accept_loss=True, deliberate=True)
    assert rebuilt.refusal is Refusal.NEWER_VERSION
    assert await replica.row("a") == row


async def test_a_claim_that_would_change_a_row_of_a_newer_version_is_not_written(
    replica: RebuildingReplica,
) -> None:
    await replica.append("a", "strategy_link", {"wdkStrategyId": 7}, at="1-0")
    await of(replica, 2).project("a")
    row = await replica.row("a")
    await replica.append("b", "strategy_link", {"wdkStrategyId": 7}, at="2-0")
    await replica.append("c", "user_message", at="1-0")
    results = {r.stream_id: r.refusal for r in await replica.rebuilder.rebuild(["b", "c"])}
    assert results == {"b": Refusal.NEWER_VERSION, "c": None}
    assert await replica.row("a") == row
    assert await replica.row("b") is None


async def test_a_handler_that_fails_in_the_past_of_a_row_keeps_the_row_and_stops_the_stream(
    replica: RebuildingReplica,
) -> None:
    row = await projected(replica, "user_message", "strategy_meta", "user_message")
    later = of(replica, 2, strategy_meta=failing)
    rebuilt = await later.rebuild("a", accept_loss=True)
    assert rebuilt.refusal is Refusal.HANDLER_FAILED
    assert "2-0" in rebuilt.detail
    assert await replica.row("a") == row
    [letter] = await find_letters(replica.engine)
    assert (letter.event_id, letter.version, letter.state) == (EventId(2, 0), 2, State.OPEN)
    assert (await of(replica, 2).rebuild("a")).refusal is None
    [letter] = await find_letters(replica.engine)
    assert letter.state is State.RESOLVED


async def test_a_handler_that_fails_after_the_position_stops_the_rebuild_there(
    replica: RebuildingReplica,
) -> None:
    await projected(replica, "user_message")
    await replica.append_many("a", "strategy_meta", "user_message", first=2)
    rebuilt = await of(replica, 2, strategy_meta=failing).rebuild("a")
    assert (rebuilt.refusal, rebuilt.position) == (None, "1-0")


async def test_open_letters_are_settled_by_a_fold_that_passes_them(replica: RebuildingReplica) -> None:
    await projected(replica, "user_message")
    await replica.append("a", "user_message", at="2-0")
    letter = Letter("a", EventId(2, 0), "user_message", Reason.KILLS_THE_WORKER, "")
    stamp = (await replica.store.stamps(["a"]))["a"]
    await replica.blocked.add([Block(stamp, letter)])
    await replica.rebuild("a")
    [stored] = await find_letters(replica.engine)
    assert stored.state is State.RESOLVED


# Pruning.


async def test_rows_without_a_log_are_pruned_with_their_claims(replica: RebuildingReplica) -> None:
    await replica.append("b", "strategy_link", {"wdkStrategyId": 7}, at="1-0")
    await replica.append("a", "strategy_link", {"wdkStrategyId": 7}, at="2-0")
    await replica.project("a", "b")
    await replica.admin.delete(replica.keys.log("a"))
    assert await replica.rebuilder.prune(["a", "b", "nobody"]) == ["a"]
    assert await replica.row("a") is None
    row = await replica.row("b")
    assert row is not None
    assert row["wdk_strategy_id"] == 7
    await replica.append("a", "user_message", at="3-0")
    await replica.project("a")
    assert await replica.project("a") == [Outcome.CAUGHT_UP]
    assert await replica.positions("a") == ["3-0"]


async def test_a_row_that_moves_is_not_pruned(
    replica: RebuildingReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await projected(replica, "user_message")
    await replica.admin.delete(replica.keys.log("a"))
    extents = replica.logs.extents

    async def and_then_the_log_is_restored(*arguments: Any) -> Any:
        found = await extents(*arguments)
        monkeypatch.undo()
        await replica.append_many("a", "user_message", "user_message")
        while await replica.project("a") != [Outcome.CAUGHT_UP]:
            pass
        return found

    monkeypatch.setattr(replica.logs, "extents", and_then_the_log_is_restored)
    assert await replica.rebuilder.prune(["a"]) == []
    assert await replica.positions("a") == ["2-0"]


# What applications call.


async def test_an_application_takes_its_rows_back_with_any_client(
    replica: RebuildingReplica, any_client: Redis
) -> None:
    await projected(replica, "user_message", "user_message")
    await projected(replica, "user_message", stream_id="b")
    await cut(replica, "2-0")
    results = await rebuild_streams(
        any_client, replica.engine, replica.projection, ["a", "missing", "b"], keys=replica.keys
    )
    assert [(r.stream_id, r.refusal, r.position) for r in results] == [
        ("a", None, "1-0"),
        ("missing", None, None),
        ("b", None, "1-0"),
    ]
    assert await replica.positions("a") == ["1-0"]
