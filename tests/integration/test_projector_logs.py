"""Projecting where log and row do not fit: logs that lost their tail, their head or everything; odd rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from tests.projecting import Replica, run, statements, without
from worker import Keys
from worker.diverged import DivergedStreams
from worker.outcome import Outcome

CAUGHT_UP, LOST, DIVERGED = Outcome.CAUGHT_UP, Outcome.LOST, Outcome.DIVERGED

OWN_ROW = "INSERT INTO stream_projections (stream_id, name, is_saved, plan) VALUES ('a', 'Mine', true, '[1]')"


@pytest.fixture(params=[True, False], ids=["cached", "uncached"])
def replica(client: Redis, keys: Keys, engine: AsyncEngine, request: pytest.FixtureRequest) -> Replica:
    return Replica(client, keys, engine, cache_bytes=1_000_000 if request.param else 0)


@pytest.fixture
def told() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


async def settle(replica: Replica, stream_id: str) -> Outcome:
    """Project until the stream need not be taken again."""
    for _ in range(50):
        [outcome] = await replica.project(stream_id)
        if outcome not in (LOST, Outcome.MORE):
            return outcome
    raise AssertionError(f"{stream_id} does not settle")


async def projected(replica: Replica, *types: str) -> dict[str, Any]:
    """A stream that was projected, and its row."""
    await replica.append_many("a", *types)
    assert await settle(replica, "a") is CAUGHT_UP
    row = await replica.row("a")
    assert row is not None
    return row


async def cut(replica: Replica, *event_ids: str) -> None:
    await replica.admin.xdel(replica.keys.log("a"), *event_ids)


# A log that has lost its tail.


@pytest.mark.parametrize("new", ["2-1", "3-0", "9-0", None], ids=["below", "same", "above", "none"])
async def test_a_log_that_has_lost_its_tail_leaves_the_row_as_it_is(
    replica: Replica, new: str | None
) -> None:
    row = await projected(replica, "user_message", "user_message", "user_message", "user_message")
    await replica.admin.delete(replica.keys.log("a"))
    await replica.append_many("a", "user_message", "user_message")
    if new:
        await replica.append("a", "user_message", at=new)
    with statements(replica.engine) as sent:
        assert await settle(replica, "a") is DIVERGED
        assert await settle(replica, "a") is DIVERGED
    assert await replica.row("a") == row
    assert {"INSERT", "UPDATE"}.isdisjoint(sent)


async def test_a_log_that_was_lost_and_begun_anew_is_told_from_a_trimmed_one_where_redis_counts(
    replica: Replica, told: list[Any]
) -> None:
    row = await projected(replica, "user_message", "user_message")
    await replica.admin.delete(replica.keys.log("a"))
    await replica.append("a", "user_message", at="9-0")
    counts = "entries-added" in await replica.admin.xinfo_stream(replica.keys.log("a"))
    assert await settle(replica, "a") is (DIVERGED if counts else CAUGHT_UP)
    assert (await replica.row("a") == row) is counts
    assert ("log_trimmed" in [line["event"] for line in told]) is not counts


async def test_a_log_that_is_gone_leaves_the_row_as_it_is(replica: Replica) -> None:
    row = await projected(replica, "user_message")
    await replica.admin.delete(replica.keys.log("a"))
    assert await settle(replica, "a") is DIVERGED
    assert await replica.row("a") == row


async def test_a_log_that_was_emptied_leaves_the_row_as_it_is(replica: Replica) -> None:
    row = await projected(replica, "user_message")
    await cut(replica, "1-0")
    assert await settle(replica, "a") is DIVERGED
    assert await replica.row("a") == row


@pytest.mark.parametrize("position", ["", "nonsense", "5", "5-01", "18446744073709551616-0"])
async def test_a_position_that_no_log_can_hold_is_diverged_and_holds_up_nobody_else(
    replica: Replica, position: str
) -> None:
    await run(
        replica.engine,
        "INSERT INTO stream_projections (stream_id, last_event_id, version) "
        f"VALUES ('a', '{position}', {replica.projection.version})",
    )
    await replica.append("a", "user_message", at="5-1")
    await replica.append("b", "user_message", at="5-1")
    assert await replica.project("a", "b") == [DIVERGED, CAUGHT_UP]
    assert await replica.positions("a", "b") == [position, "5-1"]


async def test_a_divergence_that_redis_forgot_is_told_again(client: Redis, redis: Redis, keys: Keys) -> None:
    diverged = DivergedStreams(client, keys, "strategies")
    await diverged.add("a", "1-0")
    await redis.delete(keys.diverged("strategies"))
    await diverged.add("a", "1-0")
    assert await diverged.count() == 1


async def test_a_log_that_has_its_tail_back_goes_on(replica: Replica) -> None:
    await projected(replica, "user_message", "user_message")
    dumped = await replica.admin.dump(replica.keys.log("a"))
    assert dumped is not None
    await replica.admin.delete(replica.keys.log("a"))
    assert await settle(replica, "a") is DIVERGED
    await replica.admin.restore(replica.keys.log("a"), 0, dumped)
    await replica.append("a", "user_message", at="3-0")
    assert await settle(replica, "a") is CAUGHT_UP
    assert await replica.positions("a") == ["3-0"]


async def test_other_streams_of_the_batch_go_on(replica: Replica) -> None:
    await projected(replica, "user_message")
    await replica.admin.delete(replica.keys.log("a"))
    await settle(replica, "a")
    await replica.append_many("b", "user_message")
    assert await replica.project("a", "b") == [DIVERGED, CAUGHT_UP]


# A log that has lost its head.


async def test_a_log_that_was_trimmed_before_the_position_goes_on(replica: Replica, told: list[Any]) -> None:
    await projected(replica, "user_message", "user_message")
    await cut(replica, "1-0")
    await replica.append("a", "user_message", at="3-0")
    assert await settle(replica, "a") is CAUGHT_UP
    assert (await replica.row("a") or {})["message_count"] == 3
    assert [line for line in told if line["log_level"] != "debug"] == []


async def test_a_log_that_was_trimmed_beyond_the_position_goes_on_and_is_told_of(
    replica: Replica, told: list[Any]
) -> None:
    await projected(replica, "user_message", "user_message")
    await replica.append_many("a", *["user_message"] * 4, first=3)
    await cut(replica, "1-0", "2-0", "3-0")
    assert await settle(replica, "a") is CAUGHT_UP
    row = await replica.row("a") or {}
    assert (row["message_count"], row["last_event_id"], row["first_event_id"]) == (5, "6-0", "1-0")
    assert "log_trimmed" in [line["event"] for line in told]


async def test_an_entry_that_is_not_projected_may_be_deleted(replica: Replica) -> None:
    await projected(replica, "user_message", "delta", "delta")
    await cut(replica, "2-0", "3-0")
    await replica.append("a", "user_message", at="4-0")
    assert await settle(replica, "a") is CAUGHT_UP
    assert await replica.positions("a") == ["4-0"]


# Rows that somebody made beforehand.


async def test_a_row_that_was_made_beforehand_is_folded_from_the_defaults(replica: Replica) -> None:
    await run(replica.engine, OWN_ROW)
    await replica.append_many("a", "user_message")
    assert await settle(replica, "a") is CAUGHT_UP
    row = await replica.row("a") or {}
    assert (row["name"], row["plan"], row["is_saved"]) == ("New Conversation", {}, False)
    assert (row["message_count"], row["last_event_id"], row["first_event_id"]) == (1, "1-0", "1-0")
    assert (row["generation"], row["version"]) == (1, 1)


async def test_a_row_that_was_made_beforehand_waits_for_its_first_projected_event(replica: Replica) -> None:
    await run(replica.engine, OWN_ROW)
    before = await replica.row("a")
    await replica.append_many("a", "delta", "delta")
    assert await settle(replica, "a") is CAUGHT_UP
    assert await replica.row("a") == before
    await replica.append("a", "user_message", at="3-0")
    assert await settle(replica, "a") is CAUGHT_UP
    assert await replica.positions("a") == ["3-0"]


async def test_a_row_that_was_made_beforehand_is_found_after_pages_of_other_events(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    replica = Replica(client, keys, engine, page_bytes=1)
    await run(replica.engine, OWN_ROW)
    await replica.append_many("a", *["delta"] * 5, "user_message")
    assert await settle(replica, "a") is CAUGHT_UP
    row = await replica.row("a") or {}
    assert (row["last_event_id"], row["first_event_id"], row["message_count"]) == ("6-0", "1-0", 1)


async def test_a_row_whose_position_was_taken_away_is_folded_anew(replica: Replica) -> None:
    row = await projected(replica, "user_message", "user_message")
    await run(replica.engine, "UPDATE stream_projections SET last_event_id = NULL, message_count = 77")
    await replica.append("a", "user_message", at="3-0")
    assert await settle(replica, "a") is CAUGHT_UP
    after = await replica.row("a")
    changed = ("last_event_id", "updated_at", "generation", "message_count")
    assert without(after, changed) == without(row, changed)
    assert after is not None
    assert (after["message_count"], after["generation"]) == (3, 1)


# Rows of another version.


async def test_a_row_of_a_newer_version_is_left_alone(replica: Replica) -> None:
    await projected(replica, "user_message")
    await run(replica.engine, "UPDATE stream_projections SET version = 2")
    row = await replica.row("a")
    await replica.append("a", "user_message", at="2-0")
    assert await settle(replica, "a") is Outcome.NEWER_VERSION
    assert await replica.row("a") == row
