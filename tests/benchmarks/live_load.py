"""Live conversations: producers at a steady rate, and a reader who waits for rows to show their events."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg import sql

from projections import strategies
from tests.benchmarks.workload import Connection, RawEvent, Workload
from tests.benchmarks.world import World
from worker import EventId

STREAMS = 200
_TICK_SECONDS = 0.001
_LOOK_SECONDS = 0.0005
_PATIENCE_SECONDS = 30
_ROWS = sql.SQL("SELECT stream_id, last_event_id FROM {} WHERE stream_id = ANY(%s)")

Due = TypeVar("Due")

_PROJECTED = {event_type.encode() for event_type in strategies.types}
CHECKPOINTS = {event_type.encode() for event_type in strategies.checkpoints}


def chat_events(seed: int) -> Iterator[tuple[int, RawEvent]]:
    """Events of conversations that are under way, each at another place, without end.

    The conversations are made up here and not with the first event, when a clock may run.
    """
    workload = Workload(STREAMS, 2_000, seed=seed)
    workload.event(0, 0)
    return _by_chance(workload, random.Random(seed))


def _by_chance(workload: Workload, rng: random.Random) -> Iterator[tuple[int, RawEvent]]:
    places = [rng.randrange(workload.events_a_stream) for _ in range(STREAMS)]
    while True:
        stream = rng.randrange(STREAMS)
        yield stream, workload.event(stream, places[stream])
        places[stream] += 1


def paced(events: Iterator[Due], rate: float, seconds: float) -> Iterator[Sequence[Due]]:
    """Events in the groups in which they fall due, each millisecond at most. Blocks."""
    began = time.perf_counter()
    given, total = 0, int(rate * seconds)
    while given < total:
        due = min(total, int(rate * (time.perf_counter() - began)))
        if due > given:
            yield [next(events) for _ in range(due - given)]
            given = due
        time.sleep(_TICK_SECONDS)


@dataclass(frozen=True, slots=True)
class _Awaited:
    """An event that the reader waits for, and when its XADD began."""

    event_id: EventId
    began: float


class Reader:
    """Waits until a table's rows show events; to be run in a thread of its own.

    It asks PostgreSQL for the rows of those streams alone whose events it waits for, half a millisecond after
    each answer: while it waits for none, it asks nothing.
    """

    def __init__(self, database_url: str, table: str) -> None:
        self._database_url = database_url
        self._rows = _ROWS.format(sql.Identifier(table))
        self._awaited: dict[str, deque[_Awaited]] = {}
        self._lock = threading.Lock()

    def expect(self, stream_id: str, event_id: bytes, began: float) -> None:
        """Wait for this event too; its XADD began then."""
        with self._lock:
            awaited = _Awaited(EventId.parse(event_id), began)
            self._awaited.setdefault(stream_id, deque()).append(awaited)

    def read(self, produced: threading.Event) -> list[float]:
        """Seconds from XADD to the row that shows it, of all events up to the last that is ``produced``."""
        latencies: list[float] = []
        with psycopg.connect(self._database_url, autocommit=True) as connection:
            last_seen = time.perf_counter()
            while True:
                all_produced = produced.is_set()
                with self._lock:
                    stream_ids = list(self._awaited)
                if stream_ids:
                    cursor = connection.execute(self._rows, [stream_ids], prepare=True)
                    rows: dict[str, str | None] = dict(cursor.fetchall())
                    found = self._found(rows, time.perf_counter())
                    latencies += found
                    last_seen = time.perf_counter() if found else last_seen
                    if all_produced and time.perf_counter() - last_seen > _PATIENCE_SECONDS:
                        raise TimeoutError(f"The rows of {len(stream_ids)} streams do not show their events.")
                elif all_produced:
                    return latencies
                time.sleep(_LOOK_SECONDS)

    def _found(self, rows: Mapping[str, str | None], now: float) -> list[float]:
        """Forget what is seen, and tell how long it took."""
        found: list[float] = []
        with self._lock:
            for stream_id, last_event_id in rows.items():
                position = EventId.parse(last_event_id) if last_event_id is not None else EventId(0, 0)
                awaited = self._awaited[stream_id]
                while awaited and awaited[0].event_id <= position:
                    found.append(now - awaited.popleft().began)
                if not awaited:
                    del self._awaited[stream_id]
        return found


class LiveLoad:
    """Producers who write log and hint as `emit` does, all over one connection, and the reader."""

    def __init__(self, world: World, rate: float) -> None:
        self._world = world
        self._rate = rate
        self._events = chat_events(seed=7)
        stream_ids = [f"live-{number}" for number in range(STREAMS)]
        self._stream_ids = stream_ids
        self._logs = [world.keys.log(s).encode() for s in stream_ids]
        self._feeds = [world.keys.feed(world.keys.partition(s)).encode() for s in stream_ids]
        self._reader = Reader(world.database_url, strategies.table.name)

    def run(self, seconds: float) -> list[float]:
        """Seconds from XADD to the row that shows it, of all checkpoint events meanwhile. Blocks."""
        produced = threading.Event()
        with ThreadPoolExecutor(max_workers=1) as reader:
            latencies = reader.submit(self._reader.read, produced)
            try:
                self._produce(seconds)
            finally:
                produced.set()
            return latencies.result()

    def _produce(self, seconds: float) -> None:
        with Connection(self._world.redis_url) as redis:
            for group in paced(self._events, self._rate, seconds):
                began = time.perf_counter()
                replies = redis.pipelined(command for each in group for command in self._commands(*each))
                self._note(group, replies, began)

    def _commands(self, stream: int, event: RawEvent) -> Iterator[tuple[bytes, ...]]:
        operation_id, event_type, data = event
        yield b"XADD", self._logs[stream], b"*", b"op", operation_id, b"type", event_type, b"data", data
        if event_type in _PROJECTED:
            hint = (b"stream", self._stream_ids[stream].encode(), b"type", event_type)
            yield b"XADD", self._feeds[stream], b"*", *hint

    def _note(self, group: Sequence[tuple[int, RawEvent]], replies: list[bytes], began: float) -> None:
        at = 0
        for stream, (_, event_type, _) in group:
            if event_type in CHECKPOINTS:
                self._reader.expect(self._stream_ids[stream], replies[at], began)
            at += 1 + (event_type in _PROJECTED)
