"""Skipping an event: recorded once, fenced, and refused where the event is no longer to be given up."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.letters import only_letter, pass_over, stop
from tests.tallies import tallies
from tests.waiting import wait_until
from tests.writes import create_tallies, rows, stored, write
from worker import EventId
from worker.dead_letters import find_letters, skip_letter
from worker.errors import LetterRefusedError
from worker.letters import State, heeded, resolve
from worker.store import Store
from worker.table import StoredRow

NAME = "tallies"
PROJECTION = tallies()
EVENT = EventId(10, 0)


@pytest.fixture(autouse=True)
async def _tallies(engine: AsyncEngine) -> None:
    await create_tallies(engine)


@pytest.fixture
def store(engine: AsyncEngine) -> Store:
    return Store(engine, PROJECTION)


@pytest.fixture(params=[True, False], ids=["with a row", "without a row"])
async def row(request: pytest.FixtureRequest, store: Store) -> StoredRow | None:
    """The row that stands before the event, as a worker has loaded it; or None where there is none yet."""
    before = stored("9-0") if request.param else None
    if before:
        await store.write([write("chat", before)])
    return before


async def stop_tallies(engine: AsyncEngine) -> None:
    await stop(engine, "chat", str(EVENT), projection=NAME)


async def skip(engine: AsyncEngine, *, by: str = "me") -> None:
    await skip_letter(engine, PROJECTION, "chat", EVENT, by=by, because="sent twice")


# What is recorded.


async def test_a_skip_tells_who_and_why_and_when(engine: AsyncEngine, row: StoredRow | None) -> None:
    await stop_tallies(engine)
    await skip(engine, by="somebody")
    letter = await only_letter(engine)
    assert letter.state is State.SKIPPED
    assert (letter.skipped_by, letter.skipped_because) == ("somebody", "sent twice")
    assert letter.settled_at is not None
    assert letter.settled_at >= letter.first_at
    assert letter.retry_at is None


async def test_workers_heed_a_skip(engine: AsyncEngine, row: StoredRow | None) -> None:
    await stop_tallies(engine)
    await skip(engine)
    async with engine.connect() as connection:
        found = (await heeded(connection, NAME, ["chat"]))["chat"]
    assert (found.open, found.skipped) == (None, frozenset({EVENT}))


async def test_a_skip_leaves_the_row_as_it_is_but_for_the_fence(engine: AsyncEngine, store: Store) -> None:
    await store.write([write("chat", stored("9-0", total=7))])
    before = (await rows(engine))["chat"]
    await stop_tallies(engine)
    await skip(engine)
    assert (await rows(engine))["chat"] == {**before, "generation": before["generation"] + 1}


async def test_where_there_was_no_row_a_skip_makes_one_without_a_position(engine: AsyncEngine) -> None:
    await stop_tallies(engine)
    await skip(engine)
    made = (await rows(engine))["chat"]
    assert (made["last_event_id"], made["total"], made["generation"]) == (None, 0, 1)


async def test_a_skipped_event_stays_skipped_when_it_fails_again(engine: AsyncEngine) -> None:
    await stop_tallies(engine)
    await skip(engine)
    await stop_tallies(engine)
    assert (await only_letter(engine)).state is State.SKIPPED


# What is refused.


async def test_an_event_without_a_letter_is_not_skipped(engine: AsyncEngine, row: StoredRow | None) -> None:
    with pytest.raises(LetterRefusedError, match="is no dead letter of projection tallies"):
        await skip(engine)
    await stop(engine, "chat", str(EVENT), projection="others")
    with pytest.raises(LetterRefusedError, match="is no dead letter"):
        await skip(engine)
    await assert_not_fenced(engine, row)


async def assert_not_fenced(engine: AsyncEngine, row: StoredRow | None) -> None:
    found = await rows(engine)
    assert len(found) == (1 if row else 0)
    assert all(columns["generation"] == 0 for columns in found.values())


async def test_an_event_that_was_passed_over_is_not_skipped(
    engine: AsyncEngine, row: StoredRow | None
) -> None:
    await pass_over(engine, "chat", str(EVENT), projection=NAME)
    with pytest.raises(LetterRefusedError, match="was passed over"):
        await skip(engine)
    await assert_not_fenced(engine, row)
    assert (await only_letter(engine)).state is State.PASSED


async def test_an_event_that_was_applied_later_is_not_skipped(
    engine: AsyncEngine, row: StoredRow | None
) -> None:
    await stop_tallies(engine)
    async with engine.begin() as connection:
        await resolve(connection, NAME, 1, {"chat": "10-0"})
    with pytest.raises(LetterRefusedError, match="was applied meanwhile"):
        await skip(engine)
    await assert_not_fenced(engine, row)
    assert (await only_letter(engine)).state is State.RESOLVED


async def test_an_event_is_skipped_once(engine: AsyncEngine, row: StoredRow | None) -> None:
    await stop_tallies(engine)
    await skip(engine, by="first")
    with pytest.raises(LetterRefusedError, match="is skipped already, by 'first': 'sent twice'"):
        await skip(engine, by="second")
    assert (await only_letter(engine)).skipped_by == "first"
    assert (await rows(engine))["chat"]["generation"] == 1


@pytest.mark.parametrize("position", ["10-0", "10-1", "11-0", "100-0"])
async def test_an_event_at_or_before_the_position_is_not_skipped(
    engine: AsyncEngine, store: Store, position: str
) -> None:
    await store.write([write("chat", stored(position))])
    await stop_tallies(engine)
    with pytest.raises(LetterRefusedError, match="was applied meanwhile"):
        await skip(engine)
    assert (await rows(engine))["chat"]["generation"] == 0
    assert (await only_letter(engine)).state is State.OPEN


@pytest.mark.parametrize("position", ["9-0", "9-18446744073709551615"])
async def test_positions_are_compared_as_numbers(engine: AsyncEngine, store: Store, position: str) -> None:
    await store.write([write("chat", stored(position))])
    await stop_tallies(engine)
    await skip(engine)
    assert (await only_letter(engine)).state is State.SKIPPED


# At the same time.


async def test_a_writer_that_loaded_before_the_skip_loses(
    engine: AsyncEngine, store: Store, row: StoredRow | None
) -> None:
    await stop_tallies(engine)
    await skip(engine)
    assert await store.write([write("chat", stored("10-0", total=2), onto=row)]) == set()
    assert (await rows(engine))["chat"]["last_event_id"] == ("9-0" if row else None)


async def test_of_two_operators_at_once_one_skips(engine: AsyncEngine, row: StoredRow | None) -> None:
    await stop_tallies(engine)
    outcomes = await asyncio.gather(
        *(skip(engine, by=name) for name in ("anna", "ben", "cleo")), return_exceptions=True
    )
    assert outcomes.count(None) == 1
    winner = ("anna", "ben", "cleo")[outcomes.index(None)]
    assert (await only_letter(engine)).skipped_by == winner
    for refusal in outcomes:
        assert refusal is None or isinstance(refusal, LetterRefusedError)
        assert refusal is None or f"is skipped already, by {winner!r}" in str(refusal)
    assert (await rows(engine))["chat"]["generation"] == 1


async def waits_for_a_lock(engine: AsyncEngine) -> bool:
    """Whether somebody in this database waits for another transaction."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock' AND state = 'active'"
    )
    async with engine.connect() as connection:
        return bool(await connection.scalar(waiting))


MOVE = "UPDATE tallies SET last_event_id = '{}' WHERE stream_id = 'chat'"
MAKE = """
    INSERT INTO tallies (stream_id, last_event_id, total, numbers, generation, version)
    VALUES ('chat', '{}', 1, '[]', 0, 1)"""


@pytest.mark.parametrize(("position", "refused"), [("9-5", False), ("10-0", True), ("12-0", True)])
async def test_a_skip_waits_for_whoever_is_writing_the_row_and_then_looks_again(
    engine: AsyncEngine, row: StoredRow | None, position: str, refused: bool
) -> None:
    await stop_tallies(engine)
    async with engine.connect() as writer:
        await writer.execute(text((MOVE if row else MAKE).format(position)))
        skipping = asyncio.create_task(skip(engine))
        await wait_until(lambda: waits_for_a_lock(engine), "the skip to wait for the writer")
        # The writer goes on to the letter, as it does when the event was applied: nobody waits in a circle.
        if refused:
            await resolve(writer, NAME, 1, {"chat": position})
        await writer.commit()
        [outcome] = await asyncio.gather(skipping, return_exceptions=True)
    assert isinstance(outcome, LetterRefusedError) == refused
    assert (await only_letter(engine)).state is (State.RESOLVED if refused else State.SKIPPED)
    found = (await rows(engine))["chat"]
    assert (found["last_event_id"], found["generation"]) == (position, 0 if refused else 1)


async def test_a_writer_that_gives_up_leaves_the_event_to_be_skipped(
    engine: AsyncEngine, row: StoredRow | None
) -> None:
    await stop_tallies(engine)
    async with engine.connect() as writer:
        await writer.execute(text((MOVE if row else MAKE).format("12-0")))
        skipping = asyncio.create_task(skip(engine))
        await wait_until(lambda: waits_for_a_lock(engine), "the skip to wait for the writer")
        await writer.rollback()
        await skipping
    assert (await only_letter(engine)).state is State.SKIPPED
    assert (await rows(engine))["chat"]["last_event_id"] == ("9-0" if row else None)


async def test_writers_and_operators_at_once_never_lose_an_event_or_skip_an_applied_one(
    engine: AsyncEngine, store: Store
) -> None:
    """Either the event is skipped and the write is lost, or it is applied and the skip refused."""
    for number in range(30):
        stream_id = f"s{number}"
        before = stored("9-0") if number % 2 else None
        if before:
            await store.write([write(stream_id, before)])
        await stop(engine, stream_id, str(EVENT), projection=NAME)
        applying = store.write([write(stream_id, stored("10-0", total=2), onto=before)])
        skipping = skip_letter(engine, PROJECTION, stream_id, EVENT, by="me", because="test")
        order = (applying, skipping) if number % 3 else (skipping, applying)
        outcomes = await asyncio.gather(*order, return_exceptions=True)
        won, refusal = outcomes if number % 3 else outcomes[::-1]
        [letter] = await find_letters(engine, stream_ids=[stream_id])
        if won == {stream_id}:
            assert isinstance(refusal, LetterRefusedError)
            assert letter.state is not State.SKIPPED
        else:
            assert (won, refusal) == (set(), None)
            assert letter.state is State.SKIPPED
