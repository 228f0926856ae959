"""The past of a row, on real servers: the law, and what a log must hold for it to be told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.conversations import ALL_TYPES, CLAIM_TYPES, Entry, Universe, universes
from tests.letters import skip, stop
from tests.projecting import Replica
from tests.reference.model import single_reader
from tests.retold import applied
from tests.rights import ADMINISTRATOR, OWNER, client_as, engine_as
from tests.servers import RunningServers
from tests.tables import READ_MODEL, Table, differences, empty_tables, read_table
from tests.tallies import tallies
from tests.writes import create_tallies
from worker import EventId, Keys, PastLostError, Standing, history, row_at, show_stream
from worker.changes import ABSENT, Change
from worker.database import make_engine, parse_database_url
from worker.moments import END, START
from worker.outcome import Outcome
from worker.past import Loss, Past, PastRow, row_changes
from worker.redis_client import make_client
from worker.retelling import HistoryEntry

PAGE_BYTES = (1, 2_000, 1_000_000)


async def catch_up(replica: Replica, streams: list[str]) -> None:
    while streams:
        outcomes = dict(zip(streams, await replica.project(*streams), strict=True))
        streams = [s for s in streams if outcomes[s] in (Outcome.MORE, Outcome.LOST)]


def past_of(replica: Replica) -> Past:
    return Past(replica.projection, replica.logs, replica.engine)


async def entries(past: Past, stream_id: str, up_to: EventId = END) -> list[HistoryEntry]:
    return [entry async for entry in past.history(stream_id, up_to=up_to)]


def as_table(rows: list[PastRow]) -> Table:
    """Rows of the past as the reference model has them."""
    return {
        row.stream_id: {c: row.stream_id if c == "stream_id" else row.columns[c] for c in READ_MODEL}
        for row in rows
        if row.exists
    }


def up_to(universe: Universe, last: EventId) -> Universe:
    def is_past(entry: Entry) -> bool:
        return EventId.parse(entry[0]) <= last

    return {stream_id: [e for e in log if is_past(e)] for stream_id, log in universe.items()}


class Lab:
    """Servers and tables for one example after another."""

    def __init__(self, redis_url: str, database_url: str, prefix: str) -> None:
        self._runner = asyncio.Runner()
        self._redis = make_client(redis_url)
        self._engine = make_engine(parse_database_url(database_url), pool_size=3, application_name="law")
        self._prefix = prefix

    def check(self, universe: Universe, moment: int, page_bytes: int) -> None:
        self._runner.run(self._check(universe, moment, page_bytes))

    async def _check(self, universe: Universe, moment: int, page_bytes: int) -> None:
        await empty_tables(engine_as(self._engine, OWNER))
        admin = client_as(self._redis, ADMINISTRATOR)
        if keys := await admin.keys(f"{self._prefix}*"):
            await admin.delete(*keys)
        replica = Replica(self._redis, Keys(self._prefix), self._engine, page_bytes=page_bytes)
        for stream_id, log in universe.items():
            for event_id, fields in log:
                await replica.producer.xadd(replica.keys.log(stream_id), fields, id=event_id)  # type: ignore[arg-type]
        await catch_up(replica, list(universe))
        past = past_of(replica)
        ids = sorted({EventId.parse(event_id) for log in universe.values() for event_id, _ in log})
        middle = ids[moment % len(ids)] if ids else START
        new = {s: await past.row_at(s, START) for s in universe}
        before = {s: await past.row_at(s, middle) for s in universe}
        now = {s: await past.row_at(s, END) for s in universe}
        assert not any(row.exists for row in new.values())
        assert differences(as_table(list(before.values())), single_reader(up_to(universe, middle))) == []
        assert differences(as_table(list(now.values())), await read_table(self._engine)) == []
        for stream_id in universe:
            old, row = before[stream_id], now[stream_id]
            assert applied(old.columns, row_changes(old, row)) == {**row.columns, **kept(old)}
            told = await entries(past, stream_id)
            assert [e.event_id for e in told] == sorted(e.event_id for e in told)
            assert retell(new[stream_id], told) == {**row.columns, **kept(new[stream_id])}
            some = await entries(past, stream_id, middle)
            assert some == [entry for entry in told if entry.event_id <= middle]
            assert retell(new[stream_id], some) == {**old.columns, **kept(new[stream_id])}

    def close(self) -> None:
        self._runner.run(self._redis.aclose())
        self._runner.run(self._engine.dispose())
        self._runner.close()


def kept(row: PastRow) -> dict[str, Any]:
    """The columns that every event moves."""
    return {c: row.columns[c] for c in ("first_event_id", "last_event_id", "updated_at", "version")}


def retell(row: PastRow, told: list[HistoryEntry]) -> dict[str, Any]:
    columns = dict(row.columns)
    for entry in told:
        columns = applied(columns, entry.changes)
    return columns


@pytest.fixture
def lab(servers: RunningServers, database_url: str, keys_prefix: str) -> Iterator[Lab]:
    """One event loop and one set of connections for all examples of a test."""
    lab = Lab(servers.redis_url, database_url, keys_prefix)
    yield lab
    lab.close()


LAW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@LAW
@given(universes(CLAIM_TYPES) | universes(ALL_TYPES), st.integers(0, 30), st.sampled_from(PAGE_BYTES))
def test_a_row_at_any_event_is_what_a_single_reader_had_then(
    lab: Lab, universe: Universe, moment: int, page_bytes: int
) -> None:
    lab.check(universe, moment, page_bytes)


# What is not in the law.


@pytest.fixture
async def replica(client: Redis, keys: Keys, engine: AsyncEngine) -> Replica:
    return Replica(client, keys, engine)


async def test_skipped_events_are_no_part_of_the_past(replica: Replica) -> None:
    await replica.append("a", "user_message", at="1-0")
    await replica.append("a", "model_selected", {"modelId": "wrong"}, at="2-0")
    await stop(replica.engine, "a", "2-0")
    await skip(replica.engine, strategies, "a", "2-0")
    await replica.append("a", "user_message", at="3-0")
    past = past_of(replica)
    row = await past.row_at("a", END)
    assert (row.columns["model_id"], row.columns["message_count"]) == (None, 2)
    assert (await past.row_at("a", EventId(2, 0))).columns["last_event_id"] == "2-0"
    assert [str(entry.event_id) for entry in await entries(past, "a")] == ["1-0", "3-0"]


async def test_a_history_ends_before_an_event_whose_handler_fails(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    await create_tallies(engine)
    replica = Replica(client, keys, engine, tallies())
    for event_type in ("add", "fail", "add"):
        await replica.append("a", event_type, {"n": 1})
    past = past_of(replica)
    first, failing = await entries(past, "a")
    assert first.changes == (Change("total", (), 0, 1), Change("numbers", (0,), ABSENT, 1))
    assert failing.changes == ()
    assert failing.failure is not None
    assert isinstance(failing.failure.error, ZeroDivisionError)
    row = await past.row_at("a", END)
    assert (row.columns["total"], row.columns["last_event_id"]) == (1, str(first.event_id))
    assert row.failure is not None
    assert row.failure.event_id == failing.event_id
    assert (await past.row_at("a", first.event_id)).failure is None


async def test_a_past_that_was_trimmed_is_refused_unless_the_loss_is_accepted(replica: Replica) -> None:
    await replica.append_many("a", *["user_message"] * 5)
    await replica.project("a")
    await replica.admin.xtrim(replica.keys.log("a"), minid="3-0", approximate=False)
    past = past_of(replica)
    with pytest.raises(PastLostError, match="begins with 3-0, the row began with 1-0"):
        await past.row_at("a", END)
    with pytest.raises(PastLostError, match="trimmed"):
        await entries(past, "a")
    row = await past.row_at("a", END, accept_loss=True)
    assert (row.columns["message_count"], row.loss) == (3, Loss("a", "1-0", "3-0"))
    told = [entry async for entry in past.history("a", accept_loss=True)]
    assert [str(entry.event_id) for entry in told] == ["3-0", "4-0", "5-0"]
    await replica.admin.delete(replica.keys.log("a"))
    with pytest.raises(PastLostError, match="is gone"):
        await past.row_at("a", END)
    assert not (await past.row_at("a", END, accept_loss=True)).exists


async def test_an_undo_takes_nothing_of_the_past(replica: Replica) -> None:
    await replica.append_many("a", *["user_message"] * 3)
    await replica.project("a")
    await replica.admin.xdel(replica.keys.log("a"), "3-0")
    assert (await past_of(replica).row_at("a", END)).columns["message_count"] == 2


async def test_a_key_that_holds_no_log_has_no_past(replica: Replica) -> None:
    await replica.admin.set(replica.keys.log("a"), "text")
    with pytest.raises(PastLostError, match="holds no log"):
        await past_of(replica).row_at("a", END)
    with pytest.raises(PastLostError, match="holds no log"):
        await entries(past_of(replica), "a")


async def test_a_log_that_is_cut_while_its_history_is_read_is_not_told_wrongly(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    replica = Replica(client, keys, engine, page_bytes=1)
    await replica.append_many("a", *["user_message"] * 9)
    telling = past_of(replica).history("a")
    assert str((await anext(telling)).event_id) == "1-0"
    await replica.admin.delete(replica.keys.log("a"))
    with pytest.raises(PastLostError, match="ask again"):
        _ = [entry async for entry in telling]


async def test_a_history_tells_who_took_a_strategy(replica: Replica) -> None:
    await replica.append("a", "strategy_link", {"wdkStrategyId": 7, "isSaved": True}, at="1-0")
    await replica.append("b", "strategy_link", {"wdkStrategyId": 7}, at="2-0")
    await replica.append("a", "user_message", at="3-0")
    await replica.project("a", "b")
    first, taken, last = await entries(past_of(replica), "a")
    assert (taken.event_id, taken.stream_id, taken.type) == (EventId(2, 0), "b", None)
    assert taken.changes == (
        Change("wdk_strategy_id", (), 7, None),
        Change("is_saved", (), True, False),
    )
    assert (first.type, last.type) == ("strategy_link", "user_message")


async def test_an_application_may_ask_with_any_client(any_client: Redis, replica: Replica) -> None:
    await replica.append("a", "strategy_link", {"wdkStrategyId": 7}, at="1-0")
    await replica.append("a", "user_message", at="2-0")
    await replica.project("a")
    ask = (any_client, replica.engine, strategies, "a")
    view = await show_stream(*ask, keys=replica.keys)
    assert (view.standing, view.position) == (Standing.CAUGHT_UP, EventId(2, 0))
    row = await row_at(*ask, EventId(1, 0), keys=replica.keys)
    assert (row.columns["message_count"], row.columns["wdk_strategy_id"]) == (0, 7)
    told = [entry.type async for entry in history(*ask, keys=replica.keys)]
    assert told == ["strategy_link", "user_message"]
