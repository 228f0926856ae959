"""Transcripts in PostgreSQL: the same as those that are read from the log, in pages, and searched."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from projections.messages import TRANSCRIPT_TYPES
from projections.stored_transcripts import read_projected_messages, search_messages, transcripts
from projections.transcripts import read_stream_messages
from tests.conversations import entry_fields, make_event
from tests.payloads.choices import Rolled
from tests.projecting import Replica
from tests.rebuilding import RebuildingReplica
from tests.reference.model import as_stored
from worker import Keys
from worker.outcome import Outcome
from worker.payload import as_storable_text

CONVERSATIONS = 1_000
TYPES = (*sorted(TRANSCRIPT_TYPES), "tool_call_start", "tool_call_end", "assistant_message", "message_end")


@pytest.fixture
async def world(client: Redis, keys: Keys, engine: AsyncEngine) -> RebuildingReplica:
    return RebuildingReplica(client, keys, engine, transcripts)


async def all_pages(engine: AsyncEngine, stream_id: str, limit: int) -> list[dict[str, Any]]:
    """A whole conversation, page by page from its end."""
    messages: list[dict[str, Any]] = []
    async with engine.connect() as connection:
        page = await read_projected_messages(connection, stream_id, limit)
        messages = page.messages
        while page.before is not None:
            page = await read_projected_messages(connection, stream_id, limit, page.before)
            messages = page.messages + messages
    return messages


def storable(value: Any) -> Any:
    """What PostgreSQL can hold of a value that was read from the log."""
    match value:
        case str():
            return as_storable_text(value)
        case float() if value - value != 0:
            return None
        case list():
            return [storable(item) for item in value]
        case dict():
            return {storable(key): storable(item) for key, item in value.items()}
    return value


async def append_random(world: Replica, stream_id: str, chance: random.Random, count: int) -> None:
    pipeline = world.producer.pipeline(transaction=False)
    for _ in range(count):
        event_type, payload = make_event(Rolled(chance), TYPES)
        fields: Any = entry_fields(event_type, payload)
        if fields.get(b"data", b"").count(b"[") < 499:  # Readers of logs mind depth less than the worker.
            pipeline.xadd(world.keys.log(stream_id), fields)
    await pipeline.execute()


async def compare(world: Replica, stream_ids: Sequence[str], chance: random.Random) -> None:
    for stream_id in stream_ids:
        expected = await read_stream_messages(world.redis, stream_id, keys=world.keys)
        found = await all_pages(world.engine, stream_id, chance.randint(1, 9))
        assert as_stored(found) == as_stored(storable(expected)), stream_id


async def test_random_conversations_are_those_of_the_log_in_any_cuts_with_restarts(
    world: RebuildingReplica,
) -> None:
    chance = random.Random(20)
    streams = [f"chat-{number}" for number in range(CONVERSATIONS)]
    replica: Replica = world
    for _ in range(4):
        for stream_id in streams:
            await append_random(world, stream_id, chance, chance.randint(0, 5))
        for at in range(0, CONVERSATIONS, 100):
            if chance.random() < 0.5:  # What a replica knew is gone with it.
                replica = Replica(world.redis, world.keys, world.engine, transcripts)
            some = chance.sample(streams[at : at + 100], 80)
            await replica.project(*some)
            await compare(world, chance.sample(some, 3), chance)
        await world.rebuilder.rebuild(chance.sample(streams, 20))
    await replica.project(*streams)
    await compare(world, streams, chance)


async def test_a_half_finished_turn_survives_a_restart(world: RebuildingReplica) -> None:
    await world.append("a", "message_start")
    await world.append("a", "tool_call_start", {"id": "c1", "name": "blast"})
    await world.append("a", "assistant_message", {"content": "Searching."})
    await world.project("a")
    await world.append("a", "tool_call_end", {"id": "c1", "result": [1]})
    await world.append("a", "assistant_message", {"content": "Found."})
    await world.append("a", "message_end", {"totalTokens": 7})
    await Replica(world.redis, world.keys, world.engine, transcripts).project("a")
    async with AsyncSession(world.engine) as session:
        page = await read_projected_messages(session, "a")
    call = {"id": "c1", "name": "blast", "arguments": {}, "result": [1]}
    assert [message["toolCalls"] for message in page.messages] == [[call], [call]]
    assert ["tokenUsage" in message for message in page.messages] == [False, True]
    assert page.messages == await read_stream_messages(world.redis, "a", keys=world.keys)


async def test_pages_go_back_from_the_newest(world: RebuildingReplica) -> None:
    for number in range(5):
        await world.append("a", "user_message", {"content": str(number)})
    await world.project("a")
    async with world.engine.connect() as connection:
        newest = await read_projected_messages(connection, "a", 2)
        before = await read_projected_messages(connection, "a", 3, newest.before)
        nobody = await read_projected_messages(connection, "nobody")
        with pytest.raises(ValueError, match="limit must be 1 or more, not 0"):
            await read_projected_messages(connection, "a", 0)
    assert [m["content"] for m in newest.messages] == ["3", "4"]
    assert ([m["content"] for m in before.messages], before.before) == (["0", "1", "2"], None)
    assert (nobody.messages, nobody.before) == ([], None)


async def test_places_and_limits_beyond_all_numbers_are_taken_for_all_there_are(
    world: RebuildingReplica,
) -> None:
    await world.append("a", "user_message", {"content": "kinase"})
    await world.project("a")
    async with world.engine.connect() as connection:
        for beyond in (2**31, 2**63, 10**30):
            page = await read_projected_messages(connection, "a", beyond, beyond)
            assert [m["content"] for m in page.messages] == ["kinase"]
            assert len(await search_messages(connection, "kinase", limit=beyond)) == 1
        nothing = await read_projected_messages(connection, "a", 1, -(10**30))
        assert (nothing.messages, nothing.before) == ([], None)


UNSTORABLE = ["\\u0000", "\\ud800", "NaN", "1e999", "[" * 300 + "]" * 300, f"[NaN, 1{'0' * 30}]"]


@pytest.mark.parametrize("spelled", UNSTORABLE)
async def test_arguments_that_postgresql_cannot_store_stop_no_conversation(
    world: RebuildingReplica, spelled: str
) -> None:
    """Arguments come as text that holds JSON: what is wrong in them shows only when that is decoded."""
    value = f'"{spelled}"' if spelled.startswith("\\") else spelled
    await world.append("a", "tool_call_start", {"id": "c", "name": "n", "arguments": f'{{"x": {value}}}'})
    await world.append("a", "assistant_message", {"content": "Done."})
    assert await world.project("a") == [Outcome.CAUGHT_UP]
    await compare(world, ["a"], random.Random(0))


async def test_messages_are_found_by_their_words(world: RebuildingReplica) -> None:
    said = {
        "a": ["Which kinases are inhibited?", "None of the <b>lipases</b> is."],
        "b": ["A kinase, a kinase, a kinase!", "Nothing to see."],
    }
    for stream_id, contents in said.items():
        for content in contents:
            await world.append(stream_id, "user_message", {"content": content})
        await world.append(stream_id, "assistant_message", {"content": {"kinase": "no text"}})
    await world.project("a", "b")
    async with world.engine.connect() as connection:
        found = await search_messages(connection, "kinase")
        assert [(f.stream_id, f.position, f.role) for f in found] == [("b", 0, "user"), ("a", 0, "user")]
        assert found[1].snippet == "Which \u2039kinases\u203a are inhibited"
        assert [f.position for f in await search_messages(connection, "kinase -inhibited")] == [0]
        assert [f.stream_id for f in await search_messages(connection, "kinase", limit=1)] == ["b"]
        assert [f.stream_id for f in await search_messages(connection, "kinase", stream_id="a")] == ["a"]
        for nothing in ("", "the", '"kinases lipases"', "\0", "!&|(':*", "%"):
            assert await search_messages(connection, nothing) == []


async def test_a_content_of_any_length_and_kind_of_words_is_stored(world: RebuildingReplica) -> None:
    chance = random.Random(7)
    for number in range(3):
        words = (f"{chance.randbytes(4).hex()}-{chance.choice('äß漢🧬')}{n}.org/x" for n in range(40_000))
        await world.append("a", "user_message", {"content": " ".join(words), "messageId": str(number)})
    await world.append("a", "user_message", {"content": "漢" * 300_000})
    await world.append("a", "user_message", {"content": " ".join(chr(0x4E00 + n) for n in range(30_000))})
    await world.project("a")
    assert len(await all_pages(world.engine, "a", 2)) == 5


async def test_searching_uses_the_index(world: RebuildingReplica) -> None:
    async with world.engine.connect() as connection:
        await connection.execute(text("SET enable_seqscan = off"))
        plan = await connection.execute(
            text(
                "EXPLAIN SELECT 1 FROM stream_messages "
                "WHERE content_words @@ websearch_to_tsquery('english'::regconfig, 'kinase')"
            )
        )
        assert "ix_stream_messages_words" in "\n".join(line for (line,) in plan)
