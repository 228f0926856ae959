"""The law of pending streams: whatever happens, every hint is done once in the end, and none kept in hand."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.queues import hint, queue, streams, take
from worker.hint import Hint
from worker.pending import Work

AT_ONCE = timedelta(0)
A_MOMENT_SECONDS = 0.0001

MOVES = (
    *("hint", "flush", "deliver again", "sweep", "take", "done", "given up", "again", "rest"),
    *("withdraw", "give away"),
)

moves = st.lists(
    st.tuples(
        st.sampled_from(MOVES),
        st.sampled_from("abcd"),
    ),
    max_size=40,
)


class World:
    """A queue, and the group that its hints come from."""

    def __init__(self, batch_streams: int) -> None:
        self.pending = queue(batch_streams=batch_streams)
        self.batch_streams = batch_streams
        self.in_flight: list[Work] = []
        self.undone: list[Hint] = []
        self.done: Counter[Hint] = Counter()
        self.ever = 0

    async def move(self, move: str, stream_id: str) -> None:
        match move:
            case "hint" | "flush":
                self.ever += 1
                self.undone.append(hint(stream_id))
                self.pending.add_hints(self.undone[-1:], flush=move == "flush")
            case "deliver again":
                again = [hint for hint in self.undone if hint.stream_id == stream_id]
                self.pending.add_hints(again, flush=False)
            case "sweep":
                self.pending.add_swept(stream_id)
            case "take" if len(self.pending) > len(self.in_flight):
                await self.take()
            case "done" if self.in_flight:
                self.finish()
            case "given up" if self.in_flight:
                self.pending.finish(self.in_flight.pop(0))
            case "again" | "rest" if self.in_flight:
                rest_seconds = A_MOMENT_SECONDS if move == "rest" else 0
                self.pending.finish(self.in_flight.pop(0), again=True, rest_seconds=rest_seconds)
            case "withdraw" | "give away":
                withdrawn = await self.pending.withdraw(lambda stream: stream >= stream_id, AT_ONCE)
                if move == "withdraw":
                    self.pending.add_hints(withdrawn.hints, flush=True)
                else:
                    self.acknowledge(withdrawn.hints)

    async def take(self) -> None:
        taken = await take(self.pending)
        assert 0 < len(taken) <= self.batch_streams
        self.in_flight.extend(taken)
        assert len(set(streams(self.in_flight))) == len(self.in_flight)

    def finish(self) -> None:
        work = self.in_flight.pop(0)
        self.acknowledge(work.hints)
        self.pending.finish(work)

    def acknowledge(self, hints: Sequence[Hint]) -> None:
        self.done.update(hints)
        self.undone = [hint for hint in self.undone if hint not in self.done]


@given(moves, st.integers(1, 3))
def test_every_hint_is_done_once_and_no_stream_is_in_flight_twice(
    moves: list[tuple[str, str]], batch_streams: int
) -> None:
    asyncio.run(play(moves, batch_streams))


async def play(moves: list[tuple[str, str]], batch_streams: int) -> None:
    world = World(batch_streams)
    for move, stream_id in moves:
        await world.move(move, stream_id)
    world.pending.add_hints(world.undone, flush=False)  # as hints are claimed that nobody acknowledges
    while world.in_flight or len(world.pending):
        while world.in_flight:
            world.finish()
        if len(world.pending):
            await world.take()
    assert world.undone == []
    assert set(world.done.values()) <= {1}
    assert world.done.total() == world.ever
    assert world.pending.hints_in_hand == 0
