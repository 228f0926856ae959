"""Payloads that do not fit and handlers that raise, in projections that pass such events over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from redis.asyncio import Redis
from sqlalchemy import Computed, Text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from typing_extensions import TypedDict

from tests.letters import make_due, only_letter, skip, stopped, told
from tests.projecting import Replica, run
from tests.rights import OWNER, engine_as
from tests.tallies import Tally, spoil
from tests.verifying import VerifyingReplica
from tests.writes import create_tallies, rows
from worker import Event, Keys, ProjectedRow, Projection
from worker.dead_letters import count_letters, retry_letters
from worker.dead_letters_screen import print_letters
from worker.errors import LetterRefusedError
from worker.outcome import Outcome

CAUGHT_UP, BLOCKED = Outcome.CAUGHT_UP, Outcome.BLOCKED
ReplicaOf = Callable[..., Replica]


class Added(BaseModel):
    n: int


def adding(*, poison: Any = "pass", version: int = 1, mended: bool = False) -> Projection:
    """Typed tallies with an upcaster, and a handler that raises until it is mended."""
    projection = Projection("tallies", table=Tally, version=version, poison=poison)

    @projection.upcast("add", version=1)
    def with_number(payload: dict[str, Any]) -> dict[str, Any]:
        return {"n": payload["number"]}

    @projection.on("add")
    def add(row: Tally, payload: Added) -> None:
        row.total += payload.n

    @projection.on("fail")
    def fail(row: Tally, event: Event) -> None:
        if not mended:
            spoil(row, event)
            raise ZeroDivisionError("broken")
        row.total += 100

    return projection


@pytest.fixture
async def replica_of(client: Redis, keys: Keys, engine: AsyncEngine) -> ReplicaOf:
    await create_tallies(engine)
    return lambda **options: Replica(client, keys, engine, adding(**options))


async def totals(engine: AsyncEngine) -> dict[str, tuple[int, str | None, str, int]]:
    found = await rows(engine)
    return {s: (row["total"], row["note"], row["last_event_id"], row["version"]) for s, row in found.items()}


async def append(replica: Replica) -> None:
    await replica.append("a", "add", {"number": 1}, at="1-0")
    await replica.append("a", "fail", {}, at="2-0")
    await replica.append("a", "add", {"version": 2, "n": 2}, at="3-0")


async def test_a_payload_that_does_not_fit_leaves_a_letter_and_moves_the_position(
    replica_of: ReplicaOf, engine: AsyncEngine
) -> None:
    replica = replica_of(poison="stop")
    await replica.append("a", "add", {"number": 1}, at="1-0")
    await replica.append("a", "add", {"number": "many"}, at="2-0")
    await replica.append("a", "add", {"version": "new", "n": 1}, at="3-0")
    assert await replica.project("a") == [CAUGHT_UP]
    assert await totals(engine) == {"a": (1, None, "3-0", 1)}
    assert await told(engine, "state", "reason", "error") == [
        ("passed", "rejected", "the payload does not fit Added: n should be a valid integer"),
        ("passed", "rejected", "the payload's version is no positive integer"),
    ]


async def test_an_event_whose_handler_raises_leaves_a_letter_and_the_stream_goes_on(
    replica_of: ReplicaOf, engine: AsyncEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    replica = replica_of()
    await append(replica)
    assert await replica.project("a") == [CAUGHT_UP]
    assert await totals(engine) == {"a": (3, None, "3-0", 1)}
    assert await stopped(engine) == {}
    letter = await only_letter(engine)
    assert (letter.state, letter.reason, str(letter.event_id)) == ("passed", "handler_failed", "2-0")
    assert letter.error.endswith("ZeroDivisionError: broken\n")
    counts = await count_letters(engine, replica.projection)
    assert (counts.blocked, counts.passed) == (0, 1)
    print_letters([letter], as_json=False)
    assert "2-0\tfail\tpassed\thandler_failed\tZeroDivisionError: broken\t1\t" in capsys.readouterr().out


async def test_what_was_passed_over_can_be_neither_retried_nor_skipped(
    replica_of: ReplicaOf, engine: AsyncEngine
) -> None:
    replica = replica_of()
    await append(replica)
    await replica.project("a")
    assert await retry_letters(engine, [await only_letter(engine)]) == []
    with pytest.raises(LetterRefusedError, match=r"mend the handler and raise the projection's version\.$"):
        await skip(engine, replica.projection, "a", "2-0")
    assert await told(engine, "state") == [("passed",)]


async def test_a_new_version_applies_what_was_passed_over(replica_of: ReplicaOf, engine: AsyncEngine) -> None:
    await append(replica_of())
    assert await replica_of().project("a") == [CAUGHT_UP]
    assert await replica_of(version=2).project("a") == [CAUGHT_UP]
    assert await told(engine, "state", "version") == [("passed", 2)]
    assert await replica_of(version=3, mended=True).project("a") == [CAUGHT_UP]
    assert await totals(engine) == {"a": (103, None, "3-0", 3)}
    assert await told(engine, "state") == [("resolved",)]


async def test_a_stopped_stream_goes_on_once_its_projection_passes_poison_over(
    replica_of: ReplicaOf, engine: AsyncEngine
) -> None:
    replica = replica_of(poison="stop")
    await append(replica)
    assert await replica.project("a") == [BLOCKED]
    assert await told(engine, "state") == [("open",)]
    await make_due(engine)
    assert await replica_of().project("a") == [CAUGHT_UP]
    assert await totals(engine) == {"a": (3, None, "3-0", 1)}
    assert await told(engine, "state", "retry_at") == [("passed", None)]


async def test_a_row_that_postgresql_refuses_stops_its_stream_whatever_the_policy(
    replica_of: ReplicaOf, engine: AsyncEngine
) -> None:
    replica = replica_of()
    await run(engine, "ALTER TABLE tallies ADD CHECK (total < 3)")
    await append(replica)
    await replica.append("b", "add", {"number": 1}, at="1-0")
    assert await replica.project("a", "b") == [BLOCKED, CAUGHT_UP]
    assert (await totals(engine))["a"] == (1, None, "2-0", 1)
    assert await told(engine, "event_id", "state", "reason") == [
        ("2-0", "passed", "handler_failed"),
        ("3-0", "open", "row_refused"),
    ]


async def test_a_replay_passes_over_what_live_projection_did(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    await create_tallies(engine)
    replica = VerifyingReplica(client, keys, engine, adding())
    await append(replica)
    await replica.catch_up("a")
    finding = await replica.find("a")
    assert (finding.differences, finding.obstacle) == ((), None)
    await replica.rebuild("a")
    assert await totals(engine) == {"a": (3, None, "3-0", 1)}
    assert await told(engine, "event_id", "state") == [("2-0", "passed")]


async def test_what_the_database_generates_is_left_to_it(
    client: Redis, keys: Keys, engine: AsyncEngine
) -> None:
    class Base(DeclarativeBase):
        pass

    class Named(ProjectedRow, Base):
        __tablename__ = "named"
        name: Mapped[str] = mapped_column(Text, default="")
        shown: Mapped[str] = mapped_column(Text, Computed("upper(name)"))

    class Name(TypedDict):
        name: str

    projection = Projection("named", table=Named)

    @projection.on("named")
    def named(row: Named, payload: Name) -> None:
        row.name = payload["name"]

    async with engine_as(engine, OWNER).begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    replica = Replica(client, keys, engine, projection)
    await replica.append("a", "named", {"name": "ada"}, at="1-0")
    assert await replica.project("a") == [CAUGHT_UP]
    await replica.append("a", "named", {"name": "eva"}, at="2-0")
    assert await replica.project("a") == [CAUGHT_UP]
    row = await replica.row("a")
    assert row is not None
    assert (row["name"], row["shown"]) == ("eva", "EVA")
