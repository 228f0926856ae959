"""Workloads of realistic events: what producers of a research chat leave in Redis.

An assistant message has about 600 bytes, a snapshot 3 to 6 steps of about 300. A hundred conversations are
simulated and serve many streams each; every stream claims a WDK strategy of its own, so that also consumers
without a history of claims come to the right table.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Protocol
from urllib.parse import unquote, urlsplit

import hiredis
import orjson

from projections import strategies
from projections.simulation import SimulatedEvent, simulate_conversation
from worker import Keys

_TEMPLATES = 100
_TURNS = 10_000
"""More than any conversation here is long."""
_LONGEST = 10_000
"""From so many events on, a conversation repeats itself."""
_EVENTS_A_PIPELINE = 2_000

RawEvent = tuple[bytes, bytes, bytes]
"""Operation id, type and data, as they stand in a log."""


class Events(Protocol):
    """Events of some streams."""

    @property
    def stream_ids(self) -> list[str]: ...

    def __iter__(self) -> Iterator[tuple[int, RawEvent]]:
        """All events with the number of their stream, in the order in which they are appended."""


@dataclass(frozen=True)
class Workload:
    """So many streams with so many events each; with ``only_projected``, of projected types alone."""

    streams: int
    events_a_stream: int
    only_projected: bool = False
    seed: int = 0

    @property
    def events(self) -> int:
        return self.streams * self.events_a_stream

    @property
    def stream_ids(self) -> list[str]:
        return [f"chat-{number}" for number in range(self.streams)]

    @cached_property
    def projected(self) -> int:
        """How many events are of projected types."""
        counts = [
            sum(template[at % len(template)].type in strategies.types for at in range(self.events_a_stream))
            for template in self._templates
        ]
        return sum(counts[number % len(counts)] for number in range(self.streams))

    @cached_property
    def _templates(self) -> Sequence[Sequence[SimulatedEvent]]:
        rng = random.Random(self.seed)
        return [self._conversation(rng) for _ in range(min(self.streams, _TEMPLATES))]

    def _conversation(self, rng: random.Random) -> list[SimulatedEvent]:
        said = simulate_conversation(rng, range(1), turns=_TURNS)
        wanted = (e for e in said if not self.only_projected or e.type in strategies.types)
        return list(islice(wanted, min(self.events_a_stream, _LONGEST)))

    @cached_property
    def _encoded(self) -> Sequence[Sequence[RawEvent]]:
        return [
            [(e.operation_id.encode(), e.type.encode(), orjson.dumps(e.data)) for e in template]
            for template in self._templates
        ]

    def event(self, stream: int, at: int) -> RawEvent:
        """The event at this place of a stream's log."""
        template = stream % len(self._encoded)
        at %= len(self._encoded[template])
        operation_id, event_type, data = self._encoded[template][at]
        if event_type == b"strategy_link":  # of the stream's own strategy
            link = self._templates[template][at].data | {"wdkStrategyId": stream + 1}
            return operation_id, event_type, orjson.dumps(link)
        return operation_id, event_type, data

    def __iter__(self) -> Iterator[tuple[int, RawEvent]]:
        """All events with the number of their stream, in the order of producers that write at once."""
        for at in range(self.events_a_stream):
            for stream in range(self.streams):
                yield stream, self.event(stream, at)


@dataclass(frozen=True, slots=True)
class Appended:
    """Where each stream's row must stand in the end, and how large the logs are."""

    last: Mapping[str, str]
    bytes: int


def append(redis_url: str, keys: Keys, workload: Events, *, hints: bool = True) -> Appended:
    """Append a workload, with hints for its projected types, as fast as Redis takes it. Blocks."""
    projected = {event_type.encode() for event_type in strategies.types}
    stream_ids = workload.stream_ids
    logs = [keys.log(stream_id).encode() for stream_id in stream_ids]
    feeds = [keys.feed(keys.partition(stream_id)).encode() for stream_id in stream_ids]
    last: dict[str, str] = {}
    size = 0
    with Connection(redis_url) as redis:
        events = iter(workload)
        while chunk := list(islice(events, _EVENTS_A_PIPELINE)):
            replies = redis.pipelined(
                (b"XADD", logs[stream], b"*", b"op", op, b"type", event_type, b"data", data)
                for stream, (op, event_type, data) in chunk
            )
            news = [
                (stream, event_type, event_id)
                for (stream, (_, event_type, _)), event_id in zip(chunk, replies, strict=True)
                if event_type in projected
            ]
            last.update({stream_ids[stream]: event_id.decode() for stream, _, event_id in news})
            size += sum(len(op) + len(event_type) + len(data) for _, (op, event_type, data) in chunk)
            if hints:
                redis.pipelined(
                    (
                        b"XADD",
                        feeds[stream],
                        b"*",
                        b"stream",
                        stream_ids[stream].encode(),
                        b"type",
                        event_type,
                    )
                    for stream, event_type, _ in news
                )
    return Appended(last, size)


class Connection:
    """A connection that does nothing but send commands and read replies: redis-py takes ten times as long."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port or 6379))
        self._reader = hiredis.Reader()
        if parts.password:
            self.pipelined([(b"AUTH", unquote(parts.password).encode())])
        if database := parts.path.strip("/"):
            self.pipelined([(b"SELECT", database.encode())])

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def pipelined(self, commands: Iterable[tuple[bytes, ...]]) -> list[bytes]:
        """The replies of commands that are sent at once. Raises the first error among them."""
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
        self._socket.sendall(b"".join(packed))
        replies: list[bytes] = []
        while len(replies) < len(packed):
            reply = self._reader.gets()
            if reply is False:
                self._reader.feed(self._socket.recv(1 << 20))
            elif isinstance(reply, Exception):
                raise reply
            else:
                replies.append(reply)
        return replies
