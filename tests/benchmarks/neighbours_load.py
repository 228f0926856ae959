"""Conversations and orders at a steady rate, and readers of the tables of all three projections."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import orjson

from projections import strategies
from projections.stored_transcripts import transcripts
from tests.benchmarks.live_load import Reader, chat_events, paced
from tests.benchmarks.workload import Connection, RawEvent
from tests.benchmarks.world import World
from tests.examples.orders import orders
from worker import Projection

PROJECTIONS = {projection.name: projection for projection in (strategies, transcripts, orders)}
ORDERS = 300
_POISONED_SHARE = 0.1
_BAD_LINE = (b"", b"line_added", b'{"sku": "tea", "price": "free"}')


def order_events(seed: int) -> Iterator[tuple[int, RawEvent]]:
    """Events of orders, a third of them checkpoints, without end."""
    rng = random.Random(seed)
    while True:
        line = {"version": 2, "sku": f"tea-{rng.randrange(20)}", "price_cents": rng.randrange(1_000)}
        kinds = [(b"line_added", line), (b"order_placed", {"customer": "Ada"}), (b"order_paid", {})]
        event_type, data = rng.choice(kinds)
        yield rng.randrange(ORDERS), (b"", event_type, orjson.dumps(data))


@dataclass(frozen=True, slots=True)
class _Sent:
    """An event on its way, and the projections whose readers wait for it."""

    stream_id: str
    log: bytes
    event: RawEvent
    hinted: bool
    awaited_by: Sequence[str]


class NeighboursLoad:
    """Producers of chats and orders over one connection, and a reader for each projection that is watched.

    While it is set that orders are ``poisoned``, a handler raises at a tenth of their events.
    """

    def __init__(self, world: World, chats: int, orders: int) -> None:
        self.poisoned = False
        self._world = world
        self._chats = chats
        self._orders = orders
        self._events = self._mixed()
        self._readers = {n: Reader(world.database_url, p.table.name) for n, p in PROJECTIONS.items()}
        self._watched: Collection[str] = ()

    def run(self, seconds: float, watched: Collection[str]) -> dict[str, list[float]]:
        """Seconds from XADD to the row that shows it, of all checkpoint events of those watched. Blocks."""
        self._watched = watched
        produced = threading.Event()
        with ThreadPoolExecutor() as threads:
            reading = {name: threads.submit(self._readers[name].read, produced) for name in watched}
            try:
                self._produce(seconds)
            finally:
                produced.set()
            return {name: latencies.result() for name, latencies in reading.items()}

    def _mixed(self) -> Iterator[_Sent]:
        rng, chats, bought = random.Random(7), chat_events(seed=7), order_events(seed=7)
        shipped = (strategies, transcripts)
        while True:
            if rng.random() * (self._chats + self._orders) < self._chats:
                number, event = next(chats)
                yield self._sent(f"live-{number}", event, shipped)
            else:
                number, event = next(bought)
                bad = self.poisoned and rng.random() < _POISONED_SHARE
                yield self._sent(f"order-{number}", _BAD_LINE if bad else event, (orders,))

    def _sent(self, stream_id: str, event: RawEvent, projections: Sequence[Projection]) -> _Sent:
        event_type = event[1].decode()
        return _Sent(
            stream_id,
            projections[0].keys(self._world.keys).log(stream_id).encode(),
            event,
            hinted=any(event_type in projection.types for projection in projections),
            awaited_by=[p.name for p in projections if event_type in p.checkpoints],
        )

    def _produce(self, seconds: float) -> None:
        with Connection(self._world.redis_url) as redis:
            for group in paced(self._events, self._chats + self._orders, seconds):
                began = time.perf_counter()
                replies = redis.pipelined(command for sent in group for command in self._commands(sent))
                at = 0
                for sent in group:
                    for name in self._watched:
                        if name in sent.awaited_by:
                            self._readers[name].expect(sent.stream_id, replies[at], began)
                    at += 1 + sent.hinted

    def _commands(self, sent: _Sent) -> Iterator[tuple[bytes, ...]]:
        operation_id, event_type, data = sent.event
        yield b"XADD", sent.log, b"*", b"op", operation_id, b"type", event_type, b"data", data
        if sent.hinted:
            feed = self._world.keys.feed(self._world.keys.partition(sent.stream_id)).encode()
            yield b"XADD", feed, b"*", b"stream", sent.stream_id.encode(), b"type", event_type
