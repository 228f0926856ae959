"""Events that cannot be applied: recorded, passed over or stopped at, tried again, skipped."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import Connection, text
from sqlalchemy.event import listen
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.letters import letters, make_due, skip, stopped, told
from tests.projecting import Replica, run
from tests.tallies import tallies
from tests.versions import of_version
from tests.waiting import wait_until
from tests.writes import create_tallies
from worker import Event, Keys, ProjectedRow, Projection
from worker.blocked import Block, BlockedStreams
from worker.events import EventId, parse_entry
from worker.letters import Letter, Reason
from worker.log import Log, Page, PageRequest, ReadTerms
from worker.outcome import Outcome
from worker.redis_client import pipelined
from worker.store import Store
from worker.suspects import Suspects
from worker.transaction import LIMITS
from worker.waiting import wait_for

CAUGHT_UP, MORE, LOST, BLOCKED = Outcome.CAUGHT_UP, Outcome.MORE, Outcome.LOST, Outcome.BLOCKED


@pytest.fixture
async def tallying(client: Redis, keys: Keys, engine: AsyncEngine) -> Replica:
    await create_tallies(engine)
    return Replica(client, keys, engine, tallies())


@pytest.fixture
def replica(client: Redis, keys: Keys, engine: AsyncEngine) -> Replica:
    return Replica(client, keys, engine)


def mended() -> Projection:
    """The projection with a handler that no longer fails."""
    projection = tallies()

    def fail(row: ProjectedRow, event: Event) -> None:
        row.total += 100  # type: ignore[attr-defined]

    projection._handlers["fail"] = fail
    return projection


async def append(replica: Replica, *types: str, stream_id: str = "a", first: int = 1) -> None:
    for number, event_type in enumerate(types, first):
        await replica.append(stream_id, event_type, {"n": number}, at=f"{number}-0")


# Events that can never be applied.


async def test_events_that_can_never_be_applied_are_recorded_and_passed(tallying: Replica) -> None:
    await tallying.append("a", "add", b"nonsense", at="1-0")
    await append(tallying, "refuse", "add", first=2)
    assert await tallying.project("a") == [CAUGHT_UP]
    assert await tallying.positions("a") == ["3-0"]
    assert await told(tallying.engine, "event_id", "event_type", "state", "reason", "error") == [
        ("1-0", "add", "passed", "undecodable", "the data are not JSON: Expecting value at character 0"),
        ("2-0", "refuse", "passed", "rejected", "not wanted"),
    ]
    assert await stopped(tallying.engine) == {}


async def test_a_letter_is_recorded_only_if_its_row_was_written(
    client: Redis, keys: Keys, engine: AsyncEngine, tallying: Replica
) -> None:
    other = Replica(client, keys, engine, tallies())
    await append(tallying, "add")
    await tallying.project("a")
    await other.project("a")
    await append(tallying, "add", first=2)
    await tallying.project("a")
    await append(other, "refuse", first=3)
    assert await other.project("a") == [LOST]
    assert await letters(engine) == []
    assert await other.project("a") == [CAUGHT_UP]
    assert await told(engine, "event_id") == [("3-0",)]


async def test_an_event_that_is_passed_again_has_one_letter(tallying: Replica) -> None:
    await append(tallying, "refuse")
    await tallying.project("a")
    await run(tallying.engine, "DELETE FROM tallies")
    await append(tallying, "add", first=2)
    assert await tallying.project("a") == [LOST]
    assert await tallying.project("a") == [CAUGHT_UP]
    assert await told(tallying.engine, "event_id", "attempts") == [("1-0", 1)]


# Handlers that fail.


async def test_a_failing_handler_stops_its_stream_and_readers_are_told(tallying: Replica) -> None:
    await append(tallying, "add", "fail", "add")
    await append(tallying, "add", stream_id="b")
    assert await tallying.project("a", "b") == [BLOCKED, CAUGHT_UP]
    assert await tallying.positions("a", "b") == ["1-0", "1-0"]
    [letter] = await letters(tallying.engine)
    assert (letter["projection"], letter["stream_id"], letter["event_id"]) == ("tallies", "a", "2-0")
    assert (letter["state"], letter["reason"], letter["attempts"]) == ("open", "handler_failed", 1)
    assert letter["error"].endswith("ZeroDivisionError: broken\n")
    assert letter["first_at"] <= letter["last_at"] < letter["retry_at"]
    assert await stopped(tallying.engine) == {"a": "2-0"}


async def test_a_blocked_stream_is_left_unread_until_it_is_due(
    tallying: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(tallying, "fail")
    await tallying.project("a")
    read, asked = Log.read, list[str]()

    async def note(log: Log, requests: Sequence[PageRequest], *terms: ReadTerms) -> list[Page]:
        asked.extend(str(request) for request in requests)
        return await read(log, requests, *terms)

    monkeypatch.setattr(Log, "read", note)
    assert await tallying.project("a") == [BLOCKED]
    assert not asked
    await make_due(tallying.engine)
    assert await tallying.blocked.due(10) == ["a"]
    assert await tallying.project("a") == [BLOCKED]
    assert asked


async def test_pauses_grow_with_every_attempt(tallying: Replica) -> None:
    await append(tallying, "fail")
    pauses = []
    for attempt in range(1, 5):
        assert await tallying.project("a") == [BLOCKED]
        [letter] = await letters(tallying.engine)
        assert letter["attempts"] == attempt
        pauses.append((letter["retry_at"] - letter["last_at"]).total_seconds())
        await make_due(tallying.engine)
    assert all(5 * 2**n <= pause <= 6.25 * 2**n for n, pause in enumerate(pauses)), pauses


async def test_a_mended_handler_gets_the_stream_going_and_settles_the_letter(
    client: Redis, keys: Keys, engine: AsyncEngine, tallying: Replica
) -> None:
    await append(tallying, "add", "fail", "add")
    await tallying.project("a")
    await make_due(engine)
    other = Replica(client, keys, engine, mended())
    assert await other.project("a") == [CAUGHT_UP]
    row = await other.row("a")
    assert row is not None
    assert row["total"] == 104
    assert await told(engine, "state", "retry_at") == [("resolved", None)]
    assert await stopped(engine) == {}


async def test_a_new_version_tries_at_once(
    client: Redis, keys: Keys, engine: AsyncEngine, tallying: Replica
) -> None:
    await append(tallying, "fail")
    await tallying.project("a")
    assert await tallying.blocked.due(10) == []
    newer = mended()
    newer.version = 2
    other = Replica(client, keys, engine, newer)
    assert await other.blocked.due(10) == ["a"]
    assert await other.project("a") == [CAUGHT_UP]


async def test_a_new_version_that_fails_as_well_counts_and_pauses_from_the_start(
    client: Redis, keys: Keys, engine: AsyncEngine, tallying: Replica
) -> None:
    await append(tallying, "fail")
    for _ in range(3):
        await tallying.project("a")
        await make_due(engine)
    newer = tallies()
    newer.version = 2
    assert await Replica(client, keys, engine, newer).project("a") == [BLOCKED]
    [letter] = await letters(engine)
    assert (letter["attempts"], letter["version"]) == (1, 2)
    assert (letter["retry_at"] - letter["last_at"]).total_seconds() < 7


async def test_a_zombie_that_fails_at_an_event_which_another_applied_records_nothing(
    client: Redis, keys: Keys, engine: AsyncEngine, tallying: Replica
) -> None:
    await append(tallying, "add")
    await tallying.project("a")
    await append(tallying, "fail", first=2)
    other = Replica(client, keys, engine, mended())
    assert await other.project("a") == [CAUGHT_UP]
    assert await tallying.project("a") == [LOST]
    assert await letters(engine) == []


async def test_a_letter_for_an_event_that_was_applied_meanwhile_is_settled(tallying: Replica) -> None:
    letter = Letter("a", EventId(1, 0), "add", Reason.HANDLER_FAILED, "")
    assert await tallying.blocked.add([Block(None, letter)]) == {"a"}
    await run(
        tallying.engine,
        "INSERT INTO tallies (stream_id, last_event_id, generation, version, total, numbers) "
        "VALUES ('a', '9-0', 0, 1, 0, '[]')",
    )
    await tallying.blocked.settle_stale()
    assert await told(tallying.engine, "state") == [("resolved",)]


async def test_a_letter_whose_event_is_gone_from_the_log_is_settled(tallying: Replica) -> None:
    await append(tallying, "add", "fail")
    await tallying.project("a")
    await tallying.admin.xdel(tallying.keys.log("a"), "2-0")
    await make_due(tallying.engine)
    assert await tallying.project("a") == [CAUGHT_UP]
    assert await told(tallying.engine, "state") == [("resolved",)]


async def test_streams_that_stay_due_do_not_keep_others_from_their_turn(tallying: Replica) -> None:
    for number in range(10):
        letter = Letter(f"s{number}", EventId(2, 0), "add", Reason.HANDLER_FAILED, "")
        await tallying.blocked.add([Block(None, letter)])
    await make_due(tallying.engine)
    found: set[str] = set()

    async def all_had_their_turn() -> bool:
        found.update(await tallying.blocked.due(2))
        return len(found) == 10

    await wait_until(all_had_their_turn, "every stream to have its turn")


async def test_a_stream_that_is_stopped_again_meanwhile_stays_stopped(
    client: Redis, redis: Redis, keys: Keys, tallying: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Replica(client, keys, tallying.engine, tallies())
    await append(tallying, "add", "fail")
    await tallying.project("a")
    await redis.xdel(keys.log("a"), "2-0")
    await make_due(tallying.engine)
    settle_gone = BlockedStreams.settle_gone

    async def settle_late(blocked: BlockedStreams, events: Mapping[str, EventId]) -> None:
        monkeypatch.setattr(BlockedStreams, "settle_gone", settle_gone)
        await append(other, "fail", first=3)
        assert await other.project("a") == [BLOCKED]
        await settle_gone(blocked, events)

    monkeypatch.setattr(BlockedStreams, "settle_gone", settle_late)
    assert await tallying.project("a") == [CAUGHT_UP]
    assert await stopped(tallying.engine) == {"a": "3-0"}


async def test_a_stream_is_stopped_before_one_event_only(tallying: Replica) -> None:
    await append(tallying, "add", "fail")
    await tallying.project("a")
    await tallying.admin.xdel(tallying.keys.log("a"), "2-0")
    await append(tallying, "fail", first=3)
    await make_due(tallying.engine)
    assert await tallying.project("a") == [BLOCKED]
    assert await told(tallying.engine, "event_id", "state") == [("2-0", "resolved"), ("3-0", "open")]


async def test_a_stream_that_is_stopped_earlier_than_before_is_tried_again(tallying: Replica) -> None:
    """It is not left waiting for somebody to ask for the later event."""
    await append(tallying, "add", "fail", "add")
    later = Letter("a", EventId(3, 0), "add", Reason.KILLS_THE_WORKER, "")
    await tallying.blocked.add([Block(None, later)], retried=False)
    earlier = Letter("a", EventId(2, 0), "fail", Reason.HANDLER_FAILED, "")
    await tallying.blocked.add([Block(None, earlier)])
    await make_due(tallying.engine)
    assert await tallying.blocked.due(10) == ["a"]
    assert await tallying.project("a") == [BLOCKED]
    assert await told(tallying.engine, "event_id", "state", "attempts") == [
        ("2-0", "open", 2),
        ("3-0", "resolved", 1),
    ]


async def test_a_worker_that_is_frozen_while_it_settles_letters_does_not_hold_them_for_ever(
    tallying: Replica,
) -> None:
    found: list[Any] = []

    def look(connection: Connection) -> None:
        found.append(connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar())

    listen(tallying.engine.sync_engine, "commit", look)
    await tallying.blocked.settle_stale()
    await tallying.blocked.settle_gone({"a": EventId(1, 0)})
    assert found == ["10s", "10s"]


async def test_a_thousand_failing_streams_are_recorded_in_one_transaction(tallying: Replica) -> None:
    streams = [f"s{number}" for number in range(1_000)]
    for stream_id in streams:
        await append(tallying, "fail", stream_id=stream_id)
    assert set(await tallying.project(*streams)) == {BLOCKED}
    assert len(await stopped(tallying.engine)) == 1_000


# Skipping.


async def test_a_skipped_event_moves_the_position_and_nothing_else(tallying: Replica) -> None:
    await append(tallying, "add", "fail", "add")
    await tallying.project("a")
    await skip(tallying.engine, tallying.projection, "a", "2-0")
    assert await tallying.blocked.due(10) == ["a"], "also where the hint of the skip was lost"
    assert await tallying.project("a") == [CAUGHT_UP]
    row = await tallying.row("a")
    assert row is not None
    assert (row["total"], row["last_event_id"]) == (4, "3-0")
    assert tallying.projector.tally.events_skipped == 1
    assert await told(tallying.engine, "state") == [("skipped",)]
    assert await tallying.blocked.due(10) == []


async def test_a_skipped_event_stays_skipped_when_the_row_is_folded_anew(
    client: Redis, keys: Keys, engine: AsyncEngine, tallying: Replica
) -> None:
    await append(tallying, "fail", "add")
    await tallying.project("a")
    await skip(engine, tallying.projection, "a", "1-0")
    await tallying.project("a")
    await run(engine, "DELETE FROM tallies")
    other = Replica(client, keys, engine, mended())
    assert await other.project("a") == [CAUGHT_UP]
    row = await other.row("a")
    assert row is not None
    assert (row["total"], row["last_event_id"]) == (2, "2-0")


# What PostgreSQL refuses.


async def test_of_a_refused_row_only_the_event_to_blame_is_recorded(replica: Replica) -> None:
    await run(replica.engine, "ALTER TABLE stream_projections ADD CHECK (message_count < 3)")
    await replica.append_many("a", *["user_message"] * 5)
    await replica.append_many("b", "user_message")
    assert await replica.project("a", "b") == [BLOCKED, CAUGHT_UP]
    assert await replica.positions("a", "b") == ["2-0", "1-0"]
    [letter] = await letters(replica.engine)
    assert (letter["event_id"], letter["reason"]) == ("3-0", "row_refused")
    assert "check" in letter["error"]


async def test_a_unique_index_of_another_application_stops_one_stream(replica: Replica) -> None:
    await run(replica.engine, "CREATE UNIQUE INDEX one_name ON stream_projections (name)")
    await replica.append("a", "strategy_meta", {"name": "mine"})
    assert await replica.project("a") == [CAUGHT_UP]
    event_id = await replica.append("b", "strategy_meta", {"name": "mine"})
    await replica.append("c", "strategy_meta", {"name": "other"})
    assert await replica.project("b", "c") == [BLOCKED, CAUGHT_UP]
    assert await told(replica.engine, "stream_id", "event_id", "reason") == [("b", event_id, "row_refused")]


async def test_a_table_that_takes_no_row_at_all_is_nobodys_dead_letter(replica: Replica) -> None:
    await replica.append_many("old", "user_message")
    await replica.project("old")
    await run(replica.engine, "ALTER TABLE stream_projections ADD foreign_column int")
    await run(replica.engine, "UPDATE stream_projections SET foreign_column = 1")
    await run(replica.engine, "ALTER TABLE stream_projections ALTER foreign_column SET NOT NULL")
    await replica.append_many("old", "user_message", first=2)
    await replica.append_many("new", "user_message")
    assert await replica.project("new", "old") == [Outcome.REFUSED, CAUGHT_UP]
    assert await letters(replica.engine) == []
    await run(replica.engine, "ALTER TABLE stream_projections ALTER foreign_column DROP NOT NULL")
    assert await replica.project("new") == [CAUGHT_UP]


async def test_a_table_that_refuses_every_commit_is_nobodys_dead_letter(replica: Replica) -> None:
    await run(
        replica.engine,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'",
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON stream_projections "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    await replica.append("a", "user_message")
    assert await replica.project("a") == [Outcome.REFUSED]
    assert await letters(replica.engine) == []


async def test_a_row_that_cannot_even_be_loaded_stops_its_stream_alone(
    replica: Replica,
) -> None:
    """Such as one whose numbers print to more than PostgreSQL can send; here it divides by zero."""
    for stream_id in "abc":
        await replica.append_many(stream_id, "user_message")
        await replica.project(stream_id)
        await replica.append_many(stream_id, "user_message", first=2)
    fresh = Replica(replica.redis, replica.keys, replica.engine)
    table = fresh.store._table
    table._select = table._select.replace(
        "first_event_id", "CASE stream_id WHEN 'b' THEN (1 / (generation * 0))::text ELSE '' END", 1
    )
    assert await fresh.project("a", "b", "c") == [CAUGHT_UP, BLOCKED, CAUGHT_UP]
    assert await told(replica.engine, "stream_id", "event_id", "reason") == [("b", "2-0", "row_refused")]


# Events that kill the worker.


async def die(redis: Redis, keys: Keys, engine: AsyncEngine, *streams: str, times: int = 1) -> None:
    """One replica after another dies while it has these streams in flight."""
    for number in range(times):
        dead = Replica(redis, keys, engine, consumer=f"dead-{number}")
        await dead.suspects.begin(streams)
        await dead.suspects.bury([f"dead-{number}"])


async def test_after_some_deaths_a_stream_is_projected_alone_and_then_cleared(replica: Replica) -> None:
    await replica.append_many("a", "user_message", "user_message", "user_message")
    await replica.append_many("b", "user_message")
    await die(replica.redis, replica.keys, replica.engine, "a", "b", times=3)
    await replica.suspects.refresh()
    assert [replica.suspects.suspected(s) for s in "abc"] == [True, True, False]
    assert await replica.project("a", "b") == [CAUGHT_UP, CAUGHT_UP]
    assert replica.projector.tally.rows_written == 4, "an event a write"
    await replica.suspects.refresh()
    assert not replica.suspects.suspected("a")
    assert await letters(replica.engine) == []


async def test_after_more_deaths_the_next_event_is_given_up(replica: Replica) -> None:
    await replica.append_many("a", "user_message", "assistant_delta", "strategy_meta", "user_message")
    await replica.project("a")
    await replica.append_many("a", "assistant_delta", "strategy_meta", "user_message", first=5)
    await die(replica.redis, replica.keys, replica.engine, "a", times=6)
    await replica.suspects.refresh()
    await replica.append_many("b", "user_message")
    assert await replica.project("a", "b") == [BLOCKED, CAUGHT_UP]
    [letter] = await letters(replica.engine)
    assert (letter["event_id"], letter["event_type"]) == ("6-0", "strategy_meta")
    assert (letter["reason"], letter["retry_at"]) == ("kills_the_worker", None)
    assert await replica.blocked.due(10) == []
    await make_due(replica.engine)
    assert await replica.project("a") == [CAUGHT_UP], "an operator has asked, and it has mended its ways"


async def test_a_replica_that_has_not_heard_of_the_verdict_does_not_swallow_a_retry(
    replica: Replica,
) -> None:
    await replica.append_many("a", "user_message")
    await die(replica.redis, replica.keys, replica.engine, "a", times=6)
    other = Replica(replica.redis, replica.keys, replica.engine, consumer="other")
    for each in (replica, other):
        await each.suspects.refresh()
    assert await replica.project("a") == [BLOCKED]
    await make_due(replica.engine)
    assert await other.project("a") == [CAUGHT_UP]


async def test_a_death_is_counted_once_whoever_finds_it(replica: Replica) -> None:
    other = Replica(replica.redis, replica.keys, replica.engine, consumer="other")
    await replica.suspects.begin(["a"])
    await other.suspects.begin(["b"])
    assert sorted(await other.suspects.at_work()) == ["other", "replica"]
    for _ in range(5):
        await replica.suspects.bury(["replica"])
        await other.suspects.bury(["replica"])
    assert [other.suspects.deaths(stream_id) for stream_id in "ab"] == [1, 0]


async def test_a_replica_that_was_buried_alive_takes_the_deaths_back(replica: Replica) -> None:
    await replica.append_many("a", "user_message")
    other = Replica(replica.redis, replica.keys, replica.engine, consumer="other")
    await die(replica.redis, replica.keys, replica.engine, "a", times=2)
    for _ in range(5):
        await replica.suspects.begin(["a"])
        await other.suspects.bury(["replica"])
    await replica.suspects.begin(["a"])
    await other.suspects.refresh()
    assert other.suspects.deaths("a") == 2
    await other.suspects.bury(["replica"])
    await replica.suspects.end(())
    await other.suspects.refresh()
    assert other.suspects.deaths("a") == 2


async def test_nothing_is_in_flight_while_a_server_is_waited_for(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replica.append_many("a", "user_message")

    async def away(*_: object) -> None:
        await wait_until(replica.suspects.at_work, "what is in flight to be written down")
        raise OperationalError("SELECT", {}, ConnectionError("away"))

    monkeypatch.setattr(Store, "load", away)
    with pytest.raises(OperationalError):
        await replica.project("a")
    assert await replica.suspects.at_work() == []


@pytest.mark.parametrize("version", [1, 2], ids=["same version", "newer version"])
async def test_no_payload_is_decoded_before_it_is_written_down_what_is_in_flight(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    await replica.append("a", "user_message")
    assert await replica.project("a") == [CAUGHT_UP]
    await replica.append("a", "user_message")
    if version > 1:
        replica = Replica(replica.redis, replica.keys, replica.engine, of_version(version))
    logs_read, begun = asyncio.Event(), asyncio.Event()
    begin = Suspects.begin

    async def begin_late(suspects: Suspects, stream_ids: Sequence[str]) -> None:
        await wait_for(logs_read, 0.2)
        await begin(suspects, stream_ids)
        begun.set()

    async def note_read(*arguments: Any) -> Any:
        replies = await pipelined(*arguments)
        logs_read.set()
        return replies

    def note_decoding(*arguments: Any) -> Any:
        assert begun.is_set()
        return parse_entry(*arguments)

    monkeypatch.setattr(Suspects, "begin", begin_late)
    monkeypatch.setattr("worker.log_servers.pipelined", note_read)
    monkeypatch.setattr("worker.log.parse_entry", note_decoding)
    assert await replica.project("a") == [CAUGHT_UP]


# Rows that somebody keeps locked.


async def test_a_row_that_a_claim_must_wait_for_holds_up_its_own_stream_only(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "lock_timeout", "100ms")
    streams = list("abcdefgh")
    for stream_id in streams:
        await replica.append(stream_id, "strategy_link", {"wdkStrategyId": 7} if stream_id == "h" else {})
    await replica.project(*streams)
    async with replica.engine.connect() as other:
        await other.execute(text("SELECT FROM stream_projections WHERE stream_id = 'h' FOR UPDATE"))
        await replica.append("a", "strategy_link", {"wdkStrategyId": 7})
        for stream_id in streams[1:-1]:
            await replica.append(stream_id, "user_message")
        outcomes = await replica.project(*streams[:-1])
    assert outcomes == [LOST, *[CAUGHT_UP] * 6]
    assert await replica.project("a") == [CAUGHT_UP]
