"""Events out of a file, a line each."""

from __future__ import annotations

import json

import pytest
from redis.asyncio import Redis

from worker import InvalidEventError, Keys
from worker.batch_emit import emit_lines

GOOD = json.dumps({"stream_id": "chat", "type": "user_message"})


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("nonsense", "not JSON"),
        ("[]", "must be a JSON object"),
        ('{"type": "user_message"}', "stream_id must be given"),
        ('{"stream_id": "a", "type": 5}', "type must be given"),
        ('{"stream_id": "a", "type": "t", "data": []}', "so must its data"),
        ('{"stream_id": "a", "type": "t", "dat": {}}', "Unknown fields"),
        ('{"stream_id": "a\\u0000", "type": "t"}', "no NUL"),
    ],
)
async def test_a_wrong_line_is_named_and_those_before_it_are_emitted(
    client: Redis, keys: Keys, line: str, complaint: str
) -> None:
    emitting = emit_lines(client, [GOOD, "", line, GOOD], projected_types=(), keys_of=lambda _: keys)
    emitted = await anext(emitting)
    with pytest.raises(InvalidEventError) as raised:
        await anext(emitting)
    assert str(raised.value).startswith("Line 3: ")
    assert complaint in str(raised.value)
    entries = await client.execute_command("XRANGE", keys.log("chat"), "-", "+")
    assert [entry[0].decode() for entry in entries] == [emitted]
