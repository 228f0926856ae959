"""Transcripts read from a real log: every kind of client, long logs, junk; and nothing is changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from projections import transcripts
from projections.transcripts import read_stream_messages, read_stream_thinking
from tests.reference import transcript as reference
from tests.rights import REDIS_READER, as_user
from tests.servers import RunningServers
from tests.waiting import wait_until
from worker import Keys

CLIENTS = [
    pytest.param({**decoding, **protocol}, id="-".join(map(str, (*decoding.values(), *protocol.values()))))
    for decoding in ({}, {"decode_responses": True}, {"decode_responses": True, "encoding": "latin-1"})
    for protocol in (
        {"protocol": 2},
        {"protocol": 3},
        {"protocol": 2, "legacy_responses": False},
        {"protocol": 3, "legacy_responses": False},
    )
]
JUNK: list[Mapping[Any, Any]] = [
    {"x": b"\xff\xfe"},
    {b"\xff": b"\xff"},
    {"type": b"\xff", "data": b"{}"},
    {"data": b"{}"},
    {"type": "user_message"},
    {"type": "user_message", "data": b"\xff"},
    {"type": "user_message", "data": b'{"content": "\xff"}'},
    {"type": "user_message", "data": '{"content": "wide"}'.encode("utf-16")},
    {"type": "user_message", "data": ""},
    {"type": "user_message", "data": "[]"},
    {"type": "user_message", "data": '{"content": "cut'},
    {"type": "user_message", "data": "[" * 200_000},
    {"type": "user_message", "data": '{"content": %s}' % ("9" * 5000)},
    {"type": "assistant_delta", "data": b"\xff"},
]


@pytest.fixture
def keys(keys_prefix: str) -> Keys:
    return Keys(prefix=keys_prefix)


@pytest.fixture(params=CLIENTS)
async def client(servers: RunningServers, request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    client = Redis.from_url(as_user(servers.redis_url, REDIS_READER), **request.param)
    yield client
    await client.aclose()


async def append(redis: Redis, log: str, *entries: tuple[str, str | bytes]) -> None:
    pipeline = redis.pipeline(transaction=False)
    for event_type, data in entries:
        pipeline.xadd(log, {"op": "", "type": event_type, "data": data})
    await pipeline.execute()


async def append_junk(redis: Redis, log: str) -> None:
    for fields in JUNK:
        await redis.xadd(log, dict(fields))


async def entries_of(redis: Redis, log: str) -> list[tuple[str, dict[bytes, bytes]]]:
    entries: Any = await redis.xrange(log)
    return [(entry_id.decode(), fields) for entry_id, fields in entries]


async def test_every_kind_of_client_reads_the_same(redis: Redis, client: Redis, keys: Keys) -> None:
    log = keys.log("gén-🧬")
    await append(redis, log, ("user_message", '{"content": "Où? \U0001f9ec"}'), ("message_start", "{}"))
    await append_junk(redis, log)
    await append(redis, log, ("tool_call_start", '{"id": "c1"}'), ("assistant_message", '{"content": "Là."}'))

    messages = await read_stream_messages(client, "gén-🧬", keys=keys)
    thinking = await read_stream_thinking(client, "gén-🧬", keys=keys)

    assert [message["content"] for message in messages] == ["Où? \U0001f9ec", "Là."]
    assert messages == reference.messages(await entries_of(redis, log))
    assert thinking == {"toolCalls": [{"id": "c1"}]}


@pytest.mark.parametrize("boundary", ["message_start", "message_end"])
async def test_a_boundary_without_an_object_is_passed_over(redis: Redis, keys: Keys, boundary: str) -> None:
    log = keys.log("s")
    await append(redis, log, ("message_start", "{}"), ("tool_call_start", '{"id": "c1"}'))
    await append(redis, log, (boundary, "[]"), (boundary, b"\xff"), (boundary, ""))
    await redis.xadd(log, {"type": boundary})
    await append(redis, log, ("assistant_message", "{}"))
    (message,) = await read_stream_messages(redis, "s", keys=keys)
    assert message["toolCalls"] == [{"id": "c1", "name": "", "arguments": {}}]
    assert await read_stream_thinking(redis, "s", keys=keys) == {"toolCalls": [{"id": "c1"}]}


async def test_values_come_as_the_log_has_them(redis: Redis, keys: Keys) -> None:
    big = 123456789012345678901234567890
    data = f'{{"id": {big}, "result": [-1e400, {big}, {-big}, "\\ud800\\u0000", 18446744073709551616, 0.1]}}'
    await append(redis, keys.log("s"), ("tool_call_start", data), ("tool_call_end", data))
    await append(redis, keys.log("s"), ("assistant_message", '{"content": NaN}'))
    (message,) = await read_stream_messages(redis, "s", keys=keys)
    (call,) = message["toolCalls"]
    assert call["id"] == big
    assert call["result"] == [float("-inf"), big, -big, "\ud800\0", 18446744073709551616, 0.1]
    assert message["content"] != message["content"]


async def test_a_stream_without_a_log_has_no_messages(redis: Redis, keys: Keys) -> None:
    assert await read_stream_messages(redis, "nobody", keys=keys) == []
    assert await read_stream_thinking(redis, "nobody", keys=keys) is None


async def test_a_key_that_is_no_log_is_an_error(redis: Redis, keys: Keys) -> None:
    await redis.set(keys.log("s"), "text")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await read_stream_messages(redis, "s", keys=keys)


@pytest.mark.parametrize("length", [15, 16, 17, 79, 80, 81, 3000])
async def test_a_log_of_any_length_is_read_to_its_end(redis: Redis, keys: Keys, length: int) -> None:
    await append(redis, keys.log("s"), ("message_start", "{}"))
    questions = [("user_message", f'{{"content": "{number}"}}') for number in range(length - 1)]
    await append(redis, keys.log("s"), *questions)
    messages = await read_stream_messages(redis, "s", keys=keys)
    assert [message["content"] for message in messages] == [str(number) for number in range(length - 1)]
    assert await read_stream_thinking(redis, "s", keys=keys) == {"toolCalls": []}


class Watched:
    """A client that notes what is asked of it."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.asked: list[tuple[Any, ...]] = []

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        self.asked.append(command)
        return await self.redis.execute_command(*command, **options)


class Stopping(Watched):
    """A client whose second page never comes, or comes as an error."""

    def __init__(self, redis: Redis, error: Exception | None = None) -> None:
        super().__init__(redis)
        self.error = error

    async def execute_command(self, *command: Any, **options: Any) -> Any:
        if not self.asked:
            return await super().execute_command(*command, **options)
        self.asked.append(command)
        if self.error is not None:
            raise self.error
        return await asyncio.Event().wait()


async def test_a_reader_that_is_cancelled_leaves_nothing_under_way(redis: Redis, keys: Keys) -> None:
    await append(redis, keys.log("s"), *[("user_message", "{}")] * 20)
    client: Any = Stopping(redis)
    before = asyncio.all_tasks()
    reading = asyncio.create_task(read_stream_messages(client, "s", keys=keys))
    await wait_until(lambda: len(client.asked) == 2, "the second page to be asked for")
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert reading.cancelled()
    await wait_until(lambda: asyncio.all_tasks() == before, "everything to end")


async def test_an_error_after_the_first_page_reaches_the_caller(redis: Redis, keys: Keys) -> None:
    await append(redis, keys.log("s"), *[("user_message", "{}")] * 20)
    client: Any = Stopping(redis, ConnectionError("gone"))
    with pytest.raises(ConnectionError, match="gone"):
        await read_stream_messages(client, "s", keys=keys)


async def test_thinking_reads_back_to_the_turn_and_no_further(redis: Redis, keys: Keys) -> None:
    await append(redis, keys.log("s"), *[("assistant_delta", "{}")] * 3000)
    await append(redis, keys.log("s"), ("message_start", "{}"), *[("assistant_delta", "{}")] * 30)
    watched: Any = Watched(redis)
    assert await read_stream_thinking(watched, "s", keys=keys) == {"toolCalls": []}
    assert [command[0] for command in watched.asked] == ["XREVRANGE", "XREVRANGE"]


async def test_pages_of_large_entries_are_small(
    redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcripts, "_PAGE_BYTES", 10_000)
    await append(redis, keys.log("s"), *[("graph_snapshot", "x" * 5_000)] * 40)
    watched: Any = Watched(redis)
    assert await read_stream_messages(watched, "s", keys=keys) == []
    counts = [command[-1] for command in watched.asked]
    assert counts[0] == 16
    assert set(counts[1:]) == {2}


async def test_reading_changes_nothing(redis: Redis, keys: Keys, keys_prefix: str) -> None:
    log = keys.log("s")
    await append(redis, log, ("message_start", "{}"), ("user_message", "{}"))
    await append_junk(redis, log)
    before = await redis.dump(log)
    async with redis.monitor() as monitor:
        await read_stream_messages(redis, "s", keys=keys)
        await read_stream_thinking(redis, "s", keys=keys)
        await redis.echo(keys_prefix)
        commands: list[str] = []
        while not commands or commands[-1].split()[0] != "ECHO":
            command = str((await monitor.next_command())["command"])
            if keys_prefix in command:
                commands.append(command)
    assert {command.split()[0] for command in commands} == {"XRANGE", "XREVRANGE", "ECHO"}
    assert await redis.dump(log) == before
    assert [key async for key in redis.scan_iter(f"{keys_prefix}*")] == [log.encode()]
