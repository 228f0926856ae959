"""Verify on real servers: every kind of damage is found and named, and nothing else is."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.letters import skip, stop
from tests.verifying import IMPATIENT, STREAMS, VerifyingReplica, columns
from tests.versions import failing, of_version
from worker import Keys, verify_streams
from worker.finding import Obstacle


@pytest.fixture
async def world(client: Redis, keys: Keys, engine: AsyncEngine) -> VerifyingReplica:
    """Three conversations, projected."""
    world = VerifyingReplica(client, keys, engine)
    await world.converse()
    return world


async def test_projected_rows_are_right(world: VerifyingReplica) -> None:
    found = await world.verify()
    assert [finding.stream_id for finding in found] == list(STREAMS)
    assert all(finding.compared and not finding.wrong for finding in found)


ROW = "UPDATE stream_projections SET {} WHERE stream_id = 'b'"
CLAIM = "UPDATE strategy_claims SET {} WHERE stream_id = 'b' AND event_ms = 6002"

DAMAGE = {
    "name": ("name = 'x'", "name"),
    "record_type": ("record_type = NULL", "record_type"),
    "model_id": ("model_id = 'M'", "model_id"),
    "message_count": ("message_count = message_count + 1", "message_count"),
    "step_count": ("step_count = 0", "step_count"),
    "plan": ("plan = jsonb_set(plan, '{numbers,0}', '100000000000000000000001')", "plan"),
    "plan null": ("plan = 'null'", "plan"),
    "steps": ("steps = steps || '[1]'", "steps"),
    "root_step_id": ("root_step_id = 't'", "root_step_id"),
    "wdk_strategy_id": ("wdk_strategy_id = 8", "wdk_strategy_id"),
    "is_saved": ("is_saved = true", "is_saved"),
    "own_is_saved": ("own_is_saved = false", "own_is_saved"),
    "own_is_saved_ms": ("own_is_saved_ms = 1", "own_is_saved_ms"),
    "own_is_saved_seq": ("own_is_saved_seq = 1", "own_is_saved_seq"),
    "updated_at": ("updated_at = updated_at + interval '1 millisecond'", "updated_at"),
    "updated_at null": ("updated_at = NULL", "updated_at"),
    "first_event_id": ("first_event_id = '1002-1'", "first_event_id"),
    "first_event_id null": ("first_event_id = NULL", "first_event_id"),
    "version": ("version = 0", "version"),
    "generation": ("generation = -1", "generation"),
    "position back": ("last_event_id = '4002-0'", "last_event_id"),
    "position to an entry that is not projected": ("last_event_id = '9002-1'", "last_event_id"),
}


@pytest.mark.parametrize(("damage", "column"), DAMAGE.values(), ids=DAMAGE)
async def test_damage_to_a_row_is_told_by_column(world: VerifyingReplica, damage: str, column: str) -> None:
    await world.damage(ROW.format(damage))
    found = columns(*await world.verify())
    assert found == {"b": {column}}


CLAIMS = {
    "removed": "DELETE FROM strategy_claims WHERE stream_id = 'b' AND event_ms = 3002",
    "added": """
        INSERT INTO strategy_claims (stream_id, event_ms, event_seq, wdk_strategy_id, until_ms, until_seq)
        VALUES ('b', 5002, 0, 6, 6002, 0)""",
    "of another strategy": CLAIM.format("wdk_strategy_id = 8"),
    "moved": CLAIM.format("event_ms = 6001"),
    "moved within its millisecond": CLAIM.format("event_seq = 1"),
    "ended": CLAIM.format("until_ms = 7002, until_seq = 0"),
    "ended by halves": CLAIM.format("until_ms = 7002"),
    "opened": """
        UPDATE strategy_claims SET until_ms = NULL, until_seq = NULL
        WHERE stream_id = 'b' AND event_ms = 3002""",
    "given away": """
        UPDATE strategy_claims SET stream_id = 'nobody' WHERE stream_id = 'b' AND event_ms = 3002""",
}


@pytest.mark.parametrize("statement", CLAIMS.values(), ids=CLAIMS)
async def test_damage_to_claims_is_told(world: VerifyingReplica, statement: str) -> None:
    await world.damage(statement)
    assert "claims" in columns(*await world.verify())["b"]


async def test_a_strategy_that_the_table_gives_to_the_wrong_stream_is_two_wrong_rows(
    world: VerifyingReplica,
) -> None:
    await world.damage(
        "UPDATE stream_projections SET wdk_strategy_id = NULL WHERE stream_id = 'c'",
        "UPDATE stream_projections SET wdk_strategy_id = 7 WHERE stream_id = 'a'",
    )
    found = await world.verify()
    assert columns(*found) == {"a": {"wdk_strategy_id"}, "c": {"wdk_strategy_id"}}
    [difference] = found[0].differences
    assert (difference.expected, difference.stored, difference.first_event) == (None, 7, None)


async def test_a_position_ahead_of_its_row_is_told_with_the_event_whose_row_it_is(
    world: VerifyingReplica,
) -> None:
    await world.append("b", "user_message", at="10000-0")
    await world.append("b", "user_message", at="11000-0")
    await world.damage("UPDATE stream_projections SET last_event_id = '11000-0' WHERE stream_id = 'b'")
    [difference] = (await world.find("b")).differences
    assert (difference.column, difference.expected, difference.stored) == (
        "last_event_id",
        "9002-0",
        "11000-0",
    )


@pytest.mark.parametrize("position", ["9002-7", "99999-0", "soon"])
async def test_a_position_that_the_log_does_not_hold_is_diverged(
    world: VerifyingReplica, position: str
) -> None:
    await world.damage(f"UPDATE stream_projections SET last_event_id = '{position}' WHERE stream_id = 'b'")
    found = await world.find("b")
    assert (found.obstacle, found.wrong, found.compared) == (Obstacle.DIVERGED, True, False)
    assert position in found.detail


async def test_a_deleted_row_is_missing(world: VerifyingReplica) -> None:
    await world.damage("DELETE FROM stream_projections WHERE stream_id = 'b'")
    found = await world.find("b")
    assert (found.missing, found.wrong, found.compared) == ("1002-0", True, False)


async def test_another_event_under_the_id_of_a_lost_one_is_told_by_verify_alone(
    world: VerifyingReplica, keys: Keys
) -> None:
    """Two masters at once, as in a failover, may give one id to two events of a stream."""
    [row] = await world.positions("b")
    log = keys.log("b")
    entries = await world.admin.execute_command("XRANGE", log, "-", f"({row}")
    await world.admin.delete(log)
    for entry_id, fields in entries:
        await world.admin.execute_command("XADD", log, entry_id, *fields)
    await world.append("b", "strategy_meta", {"name": "of the new master"}, at=str(row))
    await world.append("b", "user_message", {}, at="99999-0")
    await world.catch_up("b")
    assert await world.positions("b") == ["99999-0"], "its row goes on"
    assert columns(await world.find("b")) == {"b": {"name", "message_count"}}


async def test_a_row_without_a_position_is_missing_if_its_log_holds_events(world: VerifyingReplica) -> None:
    await world.damage("UPDATE stream_projections SET last_event_id = NULL WHERE stream_id = 'b'")
    assert (await world.find("b")).missing
    await world.damage("INSERT INTO stream_projections (stream_id) VALUES ('made beforehand')")
    assert (await world.find("made beforehand")).obstacle is Obstacle.NOTHING


async def test_an_extra_row_is_gone(world: VerifyingReplica) -> None:
    await world.damage(
        "INSERT INTO stream_projections (stream_id, last_event_id, version) VALUES ('ghost', '1-0', 1)"
    )
    found = await world.find("ghost")
    assert (found.obstacle, found.wrong) == (Obstacle.GONE, True)


async def test_several_kinds_of_damage_are_told_together(world: VerifyingReplica) -> None:
    await world.damage(
        ROW.format("name = 'first', message_count = 7, updated_at = NULL"),
        CLAIM.format("wdk_strategy_id = 8"),
    )
    assert columns(*await world.verify())["b"] >= {"name", "message_count", "updated_at", "claims"}


@pytest.mark.parametrize(
    ("damage", "first_event"),
    [
        ("name = 'first'", "8002-0"),
        ("name = 'New Conversation'", "2002-0"),
        ("name = 'nobody called it that'", None),
        ("message_count = 1", "9002-0"),
        ("message_count = 0", "1002-0"),
        ("message_count = 3", None),
        ("model_id = NULL", "4002-0"),
        ("steps = '[]'", "5002-0"),
        ("plan = '{}'", "5002-0"),
        ("own_is_saved = NULL", "3002-0"),
        ("updated_at = '1970-01-01 00:00:04.002Z'", "5002-0"),
        ("first_event_id = NULL", None),
    ],
)
async def test_the_first_event_after_which_row_and_log_differ_is_told_where_it_can_be(
    world: VerifyingReplica, damage: str, first_event: str | None
) -> None:
    await world.damage(ROW.format(damage))
    [difference] = (await world.find("b")).differences
    assert difference.first_event == first_event


async def test_a_lost_claim_is_told_with_the_event_that_made_it(world: VerifyingReplica) -> None:
    await world.damage(
        "DELETE FROM strategy_claims WHERE stream_id = 'b' AND event_ms = 6002",
        "UPDATE strategy_claims SET until_ms = NULL, until_seq = NULL WHERE stream_id = 'b'",
    )
    claims = next(d for d in (await world.find("b")).differences if d.column == "claims")
    assert claims.first_event == "6002-0"


# What is right, or cannot be told.


async def test_a_row_that_lags_behind_is_right(world: VerifyingReplica) -> None:
    await world.append("b", "user_message", at="10000-0")
    await world.append("b", "strategy_link", {"wdkStrategyId": 9}, at="11000-0")
    found = await world.find("b")
    assert (found.compared, found.wrong) == (True, False)


async def test_events_that_were_rejected_or_skipped_are_heeded(world: VerifyingReplica) -> None:
    await world.append("b", "user_message", b"no JSON", at="10000-0")
    await world.append("b", "strategy_link", {"wdkStrategyId": 1 << 63}, at="11000-0")
    await world.append("b", "user_message", at="12000-0")
    await stop(world.engine, "b", "12000-0")
    await skip(world.engine, world.projection, "b", "12000-0")
    await world.append("b", "user_message", at="13000-0")
    await world.catch_up("b")
    row = await world.row("b")
    assert row is not None
    assert (row["message_count"], row["last_event_id"]) == (3, "13000-0")
    found = await world.find("b")
    assert (found.compared, found.wrong) == (True, False)


async def test_rows_of_other_versions_are_not_compared(world: VerifyingReplica) -> None:
    await world.damage(ROW.format("version = 2, name = 'x'"))
    newer = await world.find("b")
    assert (newer.obstacle, newer.wrong) == (Obstacle.NEWER_VERSION, False)
    later = VerifyingReplica(world.redis, world.keys, world.engine, of_version(3))
    older = await later.find("b")
    assert (older.obstacle, older.wrong) == (Obstacle.OLDER_VERSION, False)


async def test_a_log_that_was_trimmed_is_told_and_nothing_is_said_of_its_row(world: VerifyingReplica) -> None:
    await world.damage(ROW.format("name = 'x'"))
    await world.admin.xtrim(world.keys.log("b"), maxlen=4, approximate=False)
    found = await world.find("b")
    assert (found.obstacle, found.wrong, found.differences) == (Obstacle.TRIMMED, False, ())


async def test_a_log_that_is_gone_or_no_stream_is_told(world: VerifyingReplica) -> None:
    await world.admin.delete(world.keys.log("a"), world.keys.log("b"))
    await world.admin.set(world.keys.log("b"), "something else")
    assert [found.obstacle for found in await world.verify("a", "b", "c")] == [
        Obstacle.GONE,
        Obstacle.UNREADABLE,
        None,
    ]


async def test_a_handler_that_fails_at_an_event_that_the_row_has_passed_is_told(
    world: VerifyingReplica,
) -> None:
    broken = VerifyingReplica(world.redis, world.keys, world.engine, of_version(1, model_selected=failing))
    found = await broken.find("b")
    assert (found.obstacle, found.wrong) == (Obstacle.HANDLER_FAILED, True)
    assert "4002-0" in found.detail


async def test_a_blocked_stream_is_compared_as_far_as_it_got(world: VerifyingReplica) -> None:
    await world.append("b", "user_message", at="10000-0")
    await stop(world.engine, "b", "10000-0")
    found = await world.find("b")
    assert (found.obstacle, found.compared, found.wrong) == (Obstacle.BLOCKED, True, False)
    await world.damage(ROW.format("name = 'x'"))
    assert columns(await world.find("b")) == {"b": {"name"}}
    await world.append("d", "user_message", at="10000-0")
    await stop(world.engine, "d", "10000-0")
    found = await world.find("d")
    assert (found.obstacle, found.missing) == (Obstacle.BLOCKED, None)


async def test_streams_that_nobody_knows_are_nothing(world: VerifyingReplica) -> None:
    await world.append("deltas", "assistant_delta")
    found = await world.verify("deltas", "nobody")
    assert [finding.obstacle for finding in found] == [Obstacle.NOTHING] * 2


async def test_rows_are_compared_while_logs_are_read_in_many_pages(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    world = VerifyingReplica(client, keys, engine, page_bytes=1)
    await world.converse()
    assert not any(found.wrong for found in await world.verify())
    await world.damage(ROW.format("name = 'first'"))
    [difference] = (await world.find("b")).differences
    assert (difference.column, difference.first_event) == ("name", "8002-0")


async def test_applications_can_verify_streams_with_any_client(
    world: VerifyingReplica, any_client: Redis
) -> None:
    await world.damage(ROW.format("name = 'x'"), "DELETE FROM stream_projections WHERE stream_id = 'c'")
    found = await verify_streams(
        any_client, world.engine, world.projection, ["b", "c", "a"], keys=world.keys, patience=IMPATIENT
    )
    assert [finding.stream_id for finding in found] == ["b", "c", "a"]
    assert [finding.missing for finding in found] == [None, "1004-0", None]
    assert columns(*found) == {"b": {"name"}}
