"""Everything that nobody wanted, at once, through a running service: the rows of the reference, and counts.

Each piece stands in a stream of its own, after a good event and, where that can be, before another: what is
bad costs neither its stream nor any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from tests.letters import letters
from tests.reference.model import single_reader
from tests.reference.wire import Entry
from tests.rights import OPERATOR, client_as
from tests.servers import RunningServers
from tests.serving import serving
from tests.tables import differences, read_table
from tests.waiting import wait_until
from worker import Keys
from worker.status import take_status

MOST = 16 * 1024 * 1024
LAST_ID = "18446744073709551615-18446744073709551615"
GOOD = (b"op", b"o", b"type", b"user_message", b"data", b'{"content": "good"}')

NAMES = [
    *("", " ", "a b", "line\nbreak", "{tag}", "}{", '"quoted"', "'; DROP TABLE stream_projections; --"),
    *(
        "*",
        "?",
        "[a-z]",
        "\\",
        "\\*",
        "%s",
        "%(a)s",
        "${a}",
        "\x1b[31m",
        "é" * 256,
        "日本",
        "\U0001f9ec",
        "x" * 512,
    ),
]
NO_NAMES = [b"\xff", b"\xed\xa0\x80", b"a\0b", b"x" * 513, b"x" * 10_000, b"\xff\n{}*"]

UNDECODABLE: dict[str, Sequence[bytes]] = {
    "no data": (b"op", b"", b"type", b"user_message"),
    "nothing": (b"type", b"graph_cleared", b"data", b""),
    "binary": (b"type", b"user_message", b"data", b"\x00\xff\xfe"),
    "list": (b"type", b"graph_plan", b"data", b"[]"),
    "deep": (b"type", b"graph_plan", b"data", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "digits": (b"type", b"strategy_link", b"data", b'{"wdkStrategyId": %s}' % (b"9" * 5_000)),
    "bigint": (b"type", b"strategy_link", b"data", b'{"wdkStrategyId": 9223372036854775808}'),
    "large": (b"type", b"strategy_meta", b"data", b'{"name": "%s"}' % (b"x" * (MOST + 1 - 12))),
    "bad last": (b"type", b"user_message", b"data", b"{}", b"data", b"{"),
}
UNTYPED: dict[str, Sequence[bytes]] = {
    "missing": (b"op", b"", b"data", b"{}"),
    "no text": (b"type", b"user_message\xff", b"data", b"{}"),
    "other fields": (b"\xff", b"\xff", b"", b""),
    "doubled": (b"type", b"user_message", b"data", b"{}", b"type", b"\xff"),
}
MENDED: dict[str, Sequence[bytes]] = {
    "NUL": (b"type", b"strategy_meta", b"data", rb'{"name": "a\u0000b", "recordType": "\ud800"}'),
    "NaN": (b"type", b"graph_plan", b"data", b'{"plan": {"a": [NaN, -Infinity, 1e999], "\\u0000": 1}}'),
    "operation": (b"op", b"\0", b"type", b"user_message", b"data", b"{}"),
}
UNUSUAL: dict[str, Sequence[bytes]] = {
    "other order": (b"data", b'{"name": "n"}', b"more", b"\xff", b"type", b"strategy_meta"),
    "good last": (b"data", b"{", b"type", b"x", b"type", b"strategy_meta", b"data", b'{"name": "n"}'),
    "sixteen": (b"type", b"strategy_meta", b"data", b'{"name": "%s"}' % (b"x" * (MOST - 12))),
    "floats": (b"type", b"graph_plan", b"data", b'{"plan": {"a": [%s1]}}' % (b"1e308, -1e-300, " * 2_000)),
    "wide": (b"type", b"graph_plan", b"data", b'{"plan": {"a": [%s{}]}}' % (b"{}," * 100_000)),
    "binary operation": (b"op", b"\xff", b"type", b"user_message", b"data", b"{}"),
    "long type": (b"type", b"y" * 100_000, b"data", b"{}"),
    "empty type": (b"type", b"", b"data", b"{}"),
}

BAD_HINTS: list[Sequence[bytes]] = [
    (b"type", b"user_message"),
    (b"stream", b"\xff", b"type", b"user_message"),
    (b"stream", b"a\0b"),
    (b"stream", b"x" * 10_000),
    (b"nonsense", b"x" * 1_000_000),
    (b"stream", b"good 1", b"stream", b"\xff"),
]
ODD_HINTS: list[Sequence[bytes]] = [
    (b"stream", b"nobody"),
    (b"stream", b"good 1", b"type", b"\xff" * 100_000),
    (b"stream", b"good 2", b"type", b"user_message", b"more", b"\xff"),
    (b"stream", b"text", b"type", b"user_message"),
    (b"stream", b"hash", b"type", b"user_message"),
]


@dataclass
class World:
    """What is appended, and the same for the reference."""

    redis: Redis
    keys: Keys
    hinted: bool
    logs: dict[str, list[Entry]] = field(default_factory=dict)

    async def append(self, stream_id: str, fields: Sequence[bytes], event_id: str = "*") -> None:
        """Append an entry as it is, and hint at it, unless hints are not wanted."""
        appended = await self.send("XADD", self.keys.log(stream_id), event_id, *fields)
        entry = (appended.decode(), dict(zip(fields[::2], fields[1::2], strict=True)))
        self.logs.setdefault(stream_id, []).append(entry)
        if self.hinted:
            feed = self.keys.feed(self.keys.partition(stream_id))
            await self.send("XADD", feed, "*", "stream", stream_id, "type", "user_message")

    async def send(self, *command: str | bytes) -> bytes:
        return cast("bytes", await self.redis.execute_command(*command))

    async def append_everything(self) -> None:
        """Good streams, bad entries between good ones, odd ids and odd names."""
        for number in range(3):
            await self.append(f"good {number}", GOOD)
        for kind in (UNDECODABLE, UNTYPED, MENDED, UNUSUAL):
            for name, fields in kind.items():
                for entry in (GOOD, fields, GOOD):
                    await self.append(name, entry)
        for stream_id in NAMES:
            await self.append(stream_id, GOOD)
        await self.append("only untyped", UNTYPED["missing"])
        await self.append("ids", GOOD, "0-1")
        await self.append("ids", GOOD, "253402300799999-0")
        await self.append("ids", GOOD, "253402300800000-0")
        await self.append("ids", GOOD, LAST_ID)
        await self.append("last id", GOOD, LAST_ID)

    async def make_keys_of_other_kinds(self) -> None:
        prefix = self.keys.log_prefix.encode()
        for name in NO_NAMES:
            await self.send("XADD", prefix + name, "*", *GOOD)
        await self.send("SET", prefix + b"text", "x" * 1_000_000)
        await self.send("HSET", prefix + b"hash", "type", "user_message")
        await self.send("RPUSH", prefix + b"other list", "x")
        await self.send("SADD", prefix + b"s\xff", "x")

    async def hint_badly(self) -> None:
        for number, hint in enumerate([*BAD_HINTS, *ODD_HINTS]):
            await self.send("XADD", self.keys.feed(number % self.keys.partitions), "*", *hint)


@pytest.mark.parametrize("hinted", [True, False], ids=["hinted", "swept"])
async def test_bad_input_costs_no_stream_and_is_counted(
    servers: RunningServers, database_url: str, redis: Redis, keys: Keys, hinted: bool
) -> None:
    world = World(redis, keys, hinted)
    async with serving(servers.redis_url, database_url, keys, sweep_seconds=0.2) as running:
        await world.append_everything()
        await world.make_keys_of_other_kinds()
        await world.hint_badly()
        engine = running.world.engine
        expected = single_reader(world.logs)

        async def different() -> list[str]:
            return differences(await read_table(engine), expected)

        async def right() -> bool:
            return not await different()

        try:
            await wait_until(right, "the rows of the reference", 60)
        except AssertionError:
            assert await different() == []
        await running.acknowledged()
        await world.append("good 0", GOOD)
        await wait_until(lambda: running.at("good 0", world.logs["good 0"][-1][0]), "more of a good stream")

        async def counted() -> Any:
            report = await running.report()
            status = await take_status(
                client_as(running.redis, OPERATOR), engine, keys, running.world.projection
            )
            return (
                report
                and status.sweep
                and report.malformed_hints == len(BAD_HINTS)
                and report.unreadable_logs >= 2
                and report.mended_values >= 7
                and report.untyped_entries >= len(UNTYPED)
                and status.sweep.unusable_keys == len(NO_NAMES) + 4
                and status.sweep.streams == len(world.logs)
            )

        await wait_until(counted, "everything to be counted")
        assert differences(await read_table(engine), single_reader(world.logs)) == []
        told = [(letter["stream_id"], letter["state"]) for letter in await letters(engine)]
    rejected = [*UNDECODABLE, "ids", "ids", "last id"]
    assert sorted(told) == sorted((stream_id, "passed") for stream_id in rejected)
