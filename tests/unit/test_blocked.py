"""Blocked streams: each rests, longer after every failure, until it gets on."""

from __future__ import annotations

import pytest

from worker import blocked
from worker.blocked import BlockedStreams


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(blocked, "time", clock)
    return clock


def rest_of(streams: BlockedStreams, clock: Clock, stream_id: str = "a") -> float:
    """How long the stream rests from now on, to the second."""
    started = clock.seconds
    while streams.resting(stream_id):
        clock.seconds += 1
    return clock.seconds - started


def test_a_stream_that_never_failed_does_not_rest(clock: Clock) -> None:
    assert not BlockedStreams().resting("a")


def test_rests_grow_up_to_five_minutes(clock: Clock) -> None:
    streams = BlockedStreams()
    rests = []
    for _ in range(9):
        streams.add("a")
        rests.append(rest_of(streams, clock))
    assert rests == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_stream_that_got_on_starts_over(clock: Clock) -> None:
    streams = BlockedStreams()
    streams.add("a")
    streams.add("a")
    streams.remove("a")
    assert not streams.resting("a")
    streams.add("a")
    assert rest_of(streams, clock) == 5


def test_every_stream_rests_for_itself(clock: Clock) -> None:
    streams = BlockedStreams()
    streams.add("a")
    streams.remove("b")
    assert streams.resting("a")
    assert not streams.resting("b")
    assert len(streams) == 1


def test_memory_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "_MAX_REMEMBERED", 3)
    streams = BlockedStreams()
    for number in range(10):
        streams.add(str(number))
        assert streams.resting(str(number))
    assert len(streams) <= 3
