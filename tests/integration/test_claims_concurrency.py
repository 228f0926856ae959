"""Claims of different streams on the same strategies, in transactions that overlap in every way.

Each scenario brings two or three replicas into conflict. One of them is halted before each of its statements
in turn, and before its commit; the others then run until they finish or wait for a lock. Whatever the order,
nobody runs into a deadlock or a unique violation, no two rows hold one strategy at any committed moment, and
at the end the table is that of a single reader.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from itertools import count

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tests.conflicts import SCENARIOS, Scenario, claim, message
from tests.interleaving import Part, Standing, interleave
from tests.laboratory import Laboratory, insert_holder

IN_PAIRS = ("new streams claim one strategy", "an undo withdraws a claim while others claim")

FEWEST_BOUNDARIES = 10
"""A write that claims something has at least so many statements; else nothing would be tested here."""

STREAMS = "aB\u00e9\uff5e\U0001f600"
"""In the order of their bytes; by UTF-16 or by a locale they would stand otherwise."""

HOLDS = {
    "strategies": text("SELECT pg_advisory_xact_lock(1466913865, :held)"),
    "new rows": text("INSERT INTO stream_projections (stream_id) VALUES (:held)"),
}


@pytest.fixture
async def laboratory(client: Redis, database_url: str, keys_prefix: str) -> AsyncIterator[Laboratory]:
    laboratory = Laboratory(client, database_url, keys_prefix)
    yield laboratory
    await laboratory.close()


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in IN_PAIRS])
async def test_one_transaction_halted_anywhere(laboratory: Laboratory, name: str) -> None:
    """Each replica in turn is the one that is halted, with the others running into what it holds."""
    scenario = SCENARIOS[name]
    replicas = range(len(scenario.batches))
    blocked = False
    for first in replicas:
        order = [first, *(other for other in replicas if other != first)]
        for boundary in count():
            standings = await laboratory.run(scenario, order, [boundary] + [None] * (len(order) - 1))
            blocked |= Standing.BLOCKED in standings
            if standings[0] is Standing.FINISHED:
                break
        assert boundary >= FEWEST_BOUNDARIES
    assert blocked, "the transactions never came into conflict"


@pytest.mark.parametrize("name", IN_PAIRS)
async def test_two_transactions_halted_anywhere(laboratory: Laboratory, name: str) -> None:
    """For every halt of the first, the second is halted wherever it gets to before it has to wait."""
    scenario = SCENARIOS[name]
    pairs = 0
    for first_boundary in count():
        for second_boundary in count():
            standings = await laboratory.run(scenario, [0, 1], [first_boundary, second_boundary])
            if standings[1] is not Standing.HALTED:
                break
            pairs += 1
        if standings[0] is Standing.FINISHED:
            break
    assert first_boundary >= FEWEST_BOUNDARIES
    assert pairs >= 2 * FEWEST_BOUNDARIES


@pytest.mark.parametrize("kind", HOLDS)
async def test_all_wait_in_one_order(laboratory: Laboratory, kind: str) -> None:
    """Two replicas wait for the same lock of a third party, and for each other as soon as it is released.

    Each lock of the batch is held in turn. Did one of them already hold a lock that comes later in the order
    of the other, they could not both get on.
    """
    claims = range(7, 11) if kind == "strategies" else ()
    news = {s: [message(10), *(claim(11 + n, n) for n in claims)] for s in STREAMS}
    past = {} if kind == "new rows" else {s: [message(1)] for s in STREAMS}
    scenario = Scenario((STREAMS, STREAMS[::-1]), projected=past, news=news)
    for held in claims or STREAMS:
        await laboratory.set_up(scenario)
        async with laboratory.stranger.connect() as connection:
            await connection.execute(HOLDS[kind], {"held": held})
            for number, replica in enumerate(laboratory.replicas[:2]):
                replica.start(laboratory.action(number, scenario.batches[number]))
                assert await replica.stand(laboratory.observer) is Standing.BLOCKED
            await connection.rollback()
        for replica in laboratory.replicas[:2]:
            await replica.finish()
        await laboratory.conclude(scenario)


async def test_a_holder_that_another_application_makes_meanwhile_is_cleared(laboratory: Laboratory) -> None:
    """It takes none of our locks. At a bad moment it makes our write fail, which is then repeated."""
    scenario = Scenario(("a",), news={"a": [claim(10, 7, saved=True)]})
    ours, theirs = laboratory.replicas[:2]
    failures = 0

    async def project() -> None:
        nonlocal failures
        try:
            await laboratory.action(0, "a")()
        except IntegrityError:
            failures += 1

    for boundary in count():
        await laboratory.set_up(scenario)
        parts = [Part(ours, project, boundary), Part(theirs, partial(insert_holder, theirs.engine, "f", 7))]
        standings = await interleave(parts, laboratory.observer, partial(laboratory.observe, scenario))
        await laboratory.conclude(scenario)
        if standings[0] is Standing.FINISHED:
            break
    assert boundary >= FEWEST_BOUNDARIES
    assert failures, "no holder came at a bad moment"


async def test_a_claim_that_comes_and_goes_meanwhile_is_given_back(laboratory: Laboratory) -> None:
    """One replica reads a log before a claim is appended, another after that; then an undo takes it back."""
    scenario = Scenario(("a", "a"), projected={"c": [claim(15, 7, saved=True)]}, news={"a": [claim(10, 7)]})
    early, late = laboratory.replicas[:2]
    undone = 0
    for boundary in count():
        await laboratory.set_up(scenario)
        early.start(laboratory.action(0, "a"), boundary)
        if await early.stand(laboratory.observer) is Standing.FINISHED:
            break
        brief = [claim(20, 7)]
        await laboratory.append({"a": brief})
        late.start(laboratory.action(1, "a"))
        if await late.stand(laboratory.observer) is Standing.FINISHED:
            await laboratory.take_back("a", brief)
            await laboratory.delete_row("a")
            undone += 1
            early.release()
            await early.finish()
            await laboratory.conclude(scenario)
        else:
            early.release()
            await early.finish()
            await late.finish()
    assert undone >= 3
    assert laboratory.races, "nobody was told that the claims had changed meanwhile"
