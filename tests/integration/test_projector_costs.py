"""What projecting costs: other events neither a statement nor a decoding, a backlog one write."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.projecting import Replica, statements
from worker import Keys
from worker.outcome import Outcome
from worker.payload import decode_object

CAUGHT_UP = Outcome.CAUGHT_UP


@pytest.fixture
def replica(client: Redis, keys: Keys, engine: AsyncEngine) -> Replica:
    return Replica(client, keys, engine)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The payloads that are decoded meanwhile."""
    payloads: list[bytes] = []

    def note(raw: bytes, max_bytes: int) -> tuple[dict[str, Any], int]:
        payloads.append(raw)
        return decode_object(raw, max_bytes)

    monkeypatch.setattr("worker.events.decode_object", note)
    return payloads


async def test_an_event_that_is_not_projected_costs_neither_statement_nor_decoding(
    replica: Replica, decoded: list[bytes]
) -> None:
    await replica.append_many("a", "user_message")
    await replica.project("a")
    decoded.clear()
    await replica.append_many("a", *["assistant_delta"] * 500, "error", first=2)
    with statements(replica.engine) as sent:
        assert await replica.project("a") == [CAUGHT_UP]
        assert await replica.project("a") == [CAUGHT_UP]
    assert (sent, decoded) == ([], [])


async def test_only_projected_events_are_decoded_among_many_others(
    replica: Replica, decoded: list[bytes]
) -> None:
    await replica.append_many("a", *["assistant_delta"] * 300, "user_message", *["assistant_delta"] * 300)
    await replica.project("a")
    assert decoded == [b"{}"]


async def test_a_hot_stream_is_not_loaded_again(replica: Replica) -> None:
    await replica.append_many("a", "user_message")
    await replica.project("a")
    await replica.append_many("a", "user_message", first=2)
    with statements(replica.engine) as sent:
        await replica.project("a")
    assert sent == ["WITH"]  # Lock, compare and write.


async def test_a_backlog_costs_one_write(replica: Replica) -> None:
    await replica.append_many("a", *["user_message"] * 300)
    with statements(replica.engine) as sent:
        await replica.project("a")
    assert sent.count("INSERT") == 1


async def test_a_large_batch_is_written_in_several_transactions(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.batch_writer._WRITE_BYTES", 200)
    for number in range(5):
        await replica.append(f"s{number}", "strategy_meta", {"name": "x" * 120})
    with statements(replica.engine) as sent:
        await replica.project(*(f"s{number}" for number in range(5)))
    assert sent.count("INSERT") == 5
    assert None not in await replica.positions(*(f"s{number}" for number in range(5)))
