"""Projecting a batch: what is read, what is written, and what each pass costs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from redis.asyncio import Redis
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.letters import make_due
from tests.projecting import Replica, run
from tests.tallies import tallies
from tests.writes import create_tallies
from worker import Keys
from worker.outcome import Outcome
from worker.store import Store
from worker.table import RowWrite

CAUGHT_UP, MORE, LOST, BLOCKED = Outcome.CAUGHT_UP, Outcome.MORE, Outcome.LOST, Outcome.BLOCKED


@pytest.fixture
def replica(client: Redis, keys: Keys, engine: AsyncEngine) -> Replica:
    return Replica(client, keys, engine)


@pytest.fixture
async def tallying(client: Redis, keys: Keys, engine: AsyncEngine) -> Replica:
    """A replica of a projection that can fail."""
    await create_tallies(engine)
    return Replica(client, keys, engine, tallies())


# What is applied.


async def test_a_pass_applies_what_the_log_holds(replica: Replica) -> None:
    await replica.append_many("a", "user_message", "delta", "user_message")
    assert await replica.project("a") == [CAUGHT_UP]
    row = await replica.row("a")
    assert row is not None
    assert (row["message_count"], row["last_event_id"], row["first_event_id"]) == (2, "3-0", "1-0")
    assert (row["generation"], row["version"]) == (0, 1)
    assert row["updated_at"].timestamp() == 0.003


async def test_a_pass_goes_on_where_the_last_one_ended(replica: Replica) -> None:
    for number in range(1, 6):
        await replica.append_many("a", "user_message", "delta", first=2 * number)
        assert await replica.project("a") == [CAUGHT_UP]
        row = await replica.row("a")
        assert row is not None
        assert (row["message_count"], row["last_event_id"]) == (number, f"{2 * number}-0")


async def test_a_pass_over_the_same_log_changes_nothing(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    first, second = Replica(client, keys, engine), Replica(client, keys, engine)
    await first.append_many("a", "user_message", "delta")
    await first.project("a")
    before = await first.row("a")
    for replica in (first, second, first, second):
        assert await replica.project("a") == [CAUGHT_UP]
    assert await first.row("a") == before


async def test_a_long_log_is_committed_page_by_page(client: Redis, keys: Keys, engine: AsyncEngine) -> None:
    replica = Replica(client, keys, engine, page_bytes=1)
    await replica.append_many("a", *["user_message"] * 4)
    seen: list[str | None] = []
    while (await replica.project("a")) == [MORE]:
        seen += await replica.positions("a")
    assert seen == ["2-0", "3-0", "4-0"]
    row = await replica.row("a")
    assert row is not None
    assert row["message_count"] == 4


@pytest.mark.parametrize("cache_bytes", [0, 1_000_000])
async def test_long_runs_of_other_events_are_passed_page_by_page(
    client: Redis, keys: Keys, engine: AsyncEngine, cache_bytes: int
) -> None:
    replica = Replica(client, keys, engine, page_bytes=1, cache_bytes=cache_bytes)
    await replica.append_many("a", *["delta"] * 5, "user_message", *["delta"] * 5, "user_message")
    passes = 1
    while (await replica.project("a")) == [MORE]:
        passes += 1
    assert passes == 12
    assert await replica.positions("a") == ["12-0"]


async def test_every_stream_of_a_batch_has_its_own_result(replica: Replica, redis: Redis, keys: Keys) -> None:
    await replica.append_many("a", "user_message")
    await replica.append_many("b", "delta")
    await redis.set(keys.log("text"), "x")
    outcomes = await replica.project("a", "b", "missing", "text")
    assert outcomes == [CAUGHT_UP, CAUGHT_UP, CAUGHT_UP, Outcome.UNREADABLE]
    assert await replica.positions("a", "b", "missing", "text") == ["1-0", None, None, None]
    assert await replica.row("b") is None


async def test_a_batch_of_nothing_is_done(replica: Replica) -> None:
    assert await replica.project() == []


# What stands in the way.


async def test_an_event_that_can_never_be_applied_moves_the_position_and_nothing_else(
    replica: Replica,
) -> None:
    for number, data in enumerate([b"", b"[]", b'{"name": "\xff"}'], 1):
        await replica.append("a", "strategy_meta", data, at=f"{number}-0")
    await replica.append("a", "strategy_link", {"wdkStrategyId": 2**63, "isSaved": True}, at="4-0")
    assert await replica.project("a") == [CAUGHT_UP]
    row = await replica.row("a")
    assert row is not None
    assert (row["last_event_id"], row["name"], row["is_saved"]) == ("4-0", "New Conversation", False)
    assert replica.projector.tally.events_rejected == 4


async def test_an_event_after_the_year_9999_moves_the_position_and_not_the_time(replica: Replica) -> None:
    await replica.append("a", "user_message", at="1000-0")
    await replica.append("a", "user_message", at="253402300800000-0")
    await replica.project("a")
    row = await replica.row("a")
    assert row is not None
    assert (row["message_count"], row["last_event_id"]) == (1, "253402300800000-0")
    assert row["updated_at"].timestamp() == 1


async def test_a_stream_stops_before_an_event_whose_handler_fails(tallying: Replica) -> None:
    for number, event_type in enumerate(["add", "add", "fail", "add"], 1):
        await tallying.append("a", event_type, {"n": number}, at=f"{number}-0")
    await tallying.append("b", "add", {"n": 5}, at="1-0")
    assert await tallying.project("a", "b") == [BLOCKED, CAUGHT_UP]
    assert await tallying.positions("a", "b") == ["2-0", "1-0"]
    assert await tallying.project("a", "b") == [BLOCKED, CAUGHT_UP]
    row = await tallying.row("a")
    assert row is not None
    assert (row["total"], row["numbers"]) == (3, [1, 2])
    assert tallying.projector.tally.handler_failures == 1, "it rests before it is tried again"


async def test_a_stream_whose_first_event_fails_has_no_row(tallying: Replica) -> None:
    await tallying.append("a", "fail")
    assert await tallying.project("a") == [BLOCKED]
    assert await tallying.row("a") is None


# What happens between loading and writing.


async def test_a_row_that_another_replica_has_moved_is_loaded_again(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    first, second = Replica(client, keys, engine), Replica(client, keys, engine)
    for replica, number in ((first, 1), (second, 2)):
        await replica.append_many("a", "user_message", first=number)
        await replica.project("a")
    await first.append_many("a", "user_message", first=3)
    assert await first.project("a") == [LOST]
    assert await first.project("a") == [CAUGHT_UP]
    row = await first.row("a")
    assert row is not None
    assert (row["message_count"], row["last_event_id"]) == (3, "3-0")
    assert first.projector.tally.comparisons_lost == 1


async def test_a_row_that_was_deleted_is_folded_anew(replica: Replica) -> None:
    await replica.append_many("a", "user_message", "user_message")
    await replica.project("a")
    await run(replica.engine, "DELETE FROM stream_projections")
    await replica.append_many("a", "user_message", first=3)
    assert await replica.project("a") == [LOST]
    assert await replica.project("a") == [CAUGHT_UP]
    row = await replica.row("a")
    assert row is not None
    assert (row["message_count"], row["last_event_id"]) == (3, "3-0")


@pytest.mark.parametrize("committed", [False, True], ids=["before", "after"])
async def test_a_connection_lost_around_the_commit_applies_no_event_twice(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    await replica.append_many("a", "user_message")
    await replica.project("a")
    await replica.append_many("a", "user_message", first=2)
    write = Store.write

    async def break_off(store: Store, writes: Sequence[RowWrite]) -> set[str]:
        if committed:
            await write(store, writes)
        raise OperationalError("COMMIT", {}, ConnectionError("lost"))

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", break_off)
        with pytest.raises(OperationalError):
            await replica.project("a")
    assert await replica.project("a") == [CAUGHT_UP]
    row = await replica.row("a")
    assert row is not None
    assert (row["message_count"], row["last_event_id"]) == (2, "2-0")


async def test_a_row_that_postgresql_refuses_holds_up_no_other_stream(
    replica: Replica, engine: AsyncEngine
) -> None:
    await run(engine, "ALTER TABLE stream_projections ADD CONSTRAINT polite CHECK (name <> 'bad')")
    for stream_id in "abcde":
        await replica.append(stream_id, "strategy_meta", {"name": "bad" if stream_id == "c" else "good"})
    outcomes = await replica.project(*"abcde")
    assert outcomes == [BLOCKED if stream_id == "c" else CAUGHT_UP for stream_id in "abcde"]
    await run(engine, "ALTER TABLE stream_projections DROP CONSTRAINT polite")
    await make_due(engine)
    assert await replica.project("c") == [CAUGHT_UP]
    row = await replica.row("c")
    assert row is not None
    assert row["name"] == "bad"


async def test_a_row_that_was_set_back_is_folded_on_although_its_claims_are_there(replica: Replica) -> None:
    await replica.append("a", "user_message", at="1-0")
    await replica.append("a", "strategy_link", {"wdkStrategyId": 7}, at="2-0")
    await replica.append("a", "strategy_link", {"wdkStrategyId": 8}, at="3-0")
    await replica.project("a")
    await run(replica.engine, "UPDATE stream_projections SET last_event_id = '1-0'")
    await replica.append("a", "user_message", at="4-0")
    assert await replica.project("a") == [LOST]
    assert await replica.project("a") == [CAUGHT_UP]
    row = await replica.row("a")
    assert row is not None
    assert (row["last_event_id"], row["wdk_strategy_id"]) == ("4-0", 8)


async def test_a_row_that_a_trigger_keeps_as_it_was_is_not_taken_for_written(replica: Replica) -> None:
    await replica.append("a", "user_message", at="1-0")
    await replica.project("a")
    await run(
        replica.engine,
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER keep BEFORE UPDATE ON stream_projections FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    await replica.append("a", "user_message", at="2-0")
    assert await replica.project("a") == [LOST]
    await run(replica.engine, "DROP TRIGGER keep ON stream_projections")
    assert await replica.project("a") == [CAUGHT_UP]
    assert await replica.positions("a") == ["2-0"]
