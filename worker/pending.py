"""Pending streams: which have news, each once, and when they are to be projected."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from worker.hint import Hint
from worker.waiting import wait_for


@dataclass(frozen=True, slots=True)
class Work:
    """A stream to project, with the hints that were in hand when it was taken.

    Only these hints may be acknowledged by the pass that follows: a later one may speak of an event that the
    pass did not see.
    """

    stream_id: str
    hints: Sequence[Hint]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What was taken out of the queue: hints, and streams that only the sweep had found."""

    hints: list[Hint] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)


Queue = OrderedDict[str, None]
"""Streams in the order in which they are to be taken; one can be removed from the middle."""


@dataclass(slots=True)
class _Stream:
    """``queued`` while in flight means: it goes back into a queue when it is done."""

    hints: list[Hint] = field(default_factory=list)
    queued: bool = False
    in_flight: bool = False


class Pending:
    """The queue between readers and projector, all in one event loop.

    A stream stands in it once, however many hints name it. While a stream is in flight it is not taken
    again; news that arrive meanwhile queue it anew when it is done. Streams found by the sweep come after
    those with hints, but a share of every batch is theirs.

    Streams linger so that several events cost one write: until the first has waited for ``linger``, a batch
    is full, a hint says `flush`, or the reader reports a backlog.
    """

    def __init__(self, *, batch_streams: int, linger: timedelta, max_hints: int) -> None:
        self._batch_streams = batch_streams
        self._swept_share = max(1, batch_streams // 8)
        self._max_swept = 4 * batch_streams
        self._linger_seconds = linger.total_seconds()
        self._max_hints = max_hints
        self._streams: dict[str, _Stream] = {}
        self._resting: dict[str, asyncio.TimerHandle] = {}
        self._hinted: Queue = OrderedDict()
        self._swept: Queue = OrderedDict()
        self._in_hand: set[Hint] = set()
        self._first_added_at = 0.0
        self._flush = False
        self._hurried = False
        self._closed = False
        self._changed = asyncio.Event()
        self._finished = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._swept_room = asyncio.Event()
        self._swept_room.set()

    def __len__(self) -> int:
        """Streams that wait or are in flight."""
        return len(self._streams)

    def __contains__(self, stream_id: object) -> bool:
        """Whether a stream waits or is in flight."""
        return stream_id in self._streams

    @property
    def hints_in_hand(self) -> int:
        return len(self._in_hand)

    def add_hints(self, hints: Iterable[Hint], *, flush: bool) -> None:
        """Queue the streams that the hints name. With ``flush`` nothing that is in hand lingers any more.

        A hint that is in hand already is passed over: while PostgreSQL is away, the same ones are claimed
        again and again.
        """
        for hint in hints:
            if hint in self._in_hand:
                continue
            self._in_hand.add(hint)
            stream = self._streams.setdefault(hint.stream_id, _Stream())
            stream.hints.append(hint)
            if hint.stream_id in self._swept:  # Somebody waits for it now.
                del self._swept[hint.stream_id]
                self._make_swept_room()
                self._put(hint.stream_id, self._hinted)
            self._enqueue(hint.stream_id, stream, self._hinted)
        if flush:
            self._flush = True
            self._changed.set()
        if len(self._in_hand) >= self._max_hints and not self._hurried:
            self._room.clear()

    def add_swept(self, stream_id: str) -> None:
        """Queue a stream that the sweep found behind its log; dropped after `hurry`."""
        if self._hurried:
            return
        self._enqueue(stream_id, self._streams.setdefault(stream_id, _Stream()), self._swept)
        if len(self._swept) >= self._max_swept:
            self._swept_room.clear()

    def _enqueue(self, stream_id: str, stream: _Stream, queue: Queue) -> None:
        if stream.queued:
            return
        stream.queued = True
        if not stream.in_flight:  # else `finish` puts it into the queue
            self._put(stream_id, queue)

    def _put(self, stream_id: str, queue: Queue) -> None:
        if not self._hinted and not self._swept:
            self._first_added_at = asyncio.get_running_loop().time()
        queue[stream_id] = None
        self._changed.set()

    async def withdraw(self, goes: Callable[[str], bool], patience: timedelta) -> Withdrawn:
        """Take out the streams that go, so that somebody else may project them.

        Streams in flight are waited for, up to ``patience``; those that take longer stay in hand.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience.total_seconds()
        withdrawn = Withdrawn()
        self._take_out(goes, withdrawn)
        while loop.time() < deadline and any(s.in_flight and goes(name) for name, s in self._streams.items()):
            self._finished.clear()
            await wait_for(self._finished, deadline - loop.time())
            self._take_out(goes, withdrawn)
        return withdrawn

    def _take_out(self, goes: Callable[[str], bool], withdrawn: Withdrawn) -> None:
        hinted, swept = ([name for name in queue if goes(name)] for queue in (self._hinted, self._swept))
        hints: list[Hint] = []
        for stream_id in hinted:
            hints += self._streams[stream_id].hints
            del self._hinted[stream_id], self._streams[stream_id]
        for stream_id in swept:
            del self._swept[stream_id], self._streams[stream_id]
        self._put_down(hints)
        self._make_swept_room()
        self._changed.set()
        withdrawn.hints.extend(hints)
        withdrawn.swept.extend(swept)

    def _put_down(self, hints: Iterable[Hint]) -> None:
        self._in_hand.difference_update(hints)
        if len(self._in_hand) < self._max_hints:
            self._room.set()

    async def room(self) -> None:
        """Wait until there is room for more hints."""
        await wait_for(self._room)

    async def swept_room(self) -> None:
        """Wait until there is room for more streams of the sweep, which must not fill memory in one go."""
        await wait_for(self._swept_room)

    def hurry(self) -> None:
        """From now on nobody waits for room, and nothing more is swept in: the reader is about to stop."""
        self._hurried = True
        self._room.set()
        self._swept_room.set()

    def close(self) -> None:
        """From now on `take` lingers no more, and gives an empty batch once the queue is empty.

        Streams that the sweep queued are dropped: whoever sweeps next finds them again. So are those that
        rest: their hints stay pending in the group.
        """
        self.hurry()
        self._closed = True
        for stream_id, timer in self._resting.items():
            timer.cancel()
            del self._streams[stream_id]
        self._resting.clear()
        for stream_id in self._swept:
            del self._streams[stream_id]
        self._swept.clear()
        self._changed.set()

    async def take(self) -> list[Work]:
        """The next batch, when there is one; an empty list after `close` when nothing is left.

        Every work must be given back by `finish`.
        """
        while not self._ready():
            if self._closed and not self._streams:
                return []
            self._changed.clear()
            await self._wait()
        count = len(self._hinted)
        swept = min(len(self._swept), max(self._swept_share, self._batch_streams - count))
        batch = [self._hinted.popitem(last=False)[0] for _ in range(min(count, self._batch_streams - swept))]
        batch += [self._swept.popitem(last=False)[0] for _ in range(swept)]
        self._make_swept_room()
        self._flush = self._flush and bool(self._hinted)
        self._first_added_at = asyncio.get_running_loop().time()
        return [self._hand_out(stream_id) for stream_id in batch]

    def _make_swept_room(self) -> None:
        if len(self._swept) < self._max_swept:
            self._swept_room.set()

    def _ready(self) -> bool:
        if not self._hinted and not self._swept:
            return False
        if self._flush or self._closed or self._swept or len(self._hinted) >= self._batch_streams:
            return True
        return asyncio.get_running_loop().time() - self._first_added_at >= self._linger_seconds

    async def _wait(self) -> None:
        """Until something changes or the first stream has lingered long enough."""
        timeout = None
        if self._hinted:
            waited = asyncio.get_running_loop().time() - self._first_added_at
            timeout = max(0.0, self._linger_seconds - waited)
        await wait_for(self._changed, timeout)

    def _hand_out(self, stream_id: str) -> Work:
        stream = self._streams[stream_id]
        stream.queued = False
        stream.in_flight = True
        hints, stream.hints = stream.hints, []
        return Work(stream_id, hints)

    def finish(self, work: Work, *, again: bool = False, rest_seconds: float = 0) -> None:
        """Give a work back. With ``again`` it is queued anew, at the end, with its hints; it does not linger.

        It rests for ``rest_seconds`` first, whatever hints come meanwhile. After `close` nothing is queued
        anew: hints that were not acknowledged stay pending in the group, where another replica finds them.
        """
        stream = self._streams[work.stream_id]
        stream.in_flight = False
        self._finished.set()
        if again and not self._closed:
            stream.hints = [*work.hints, *stream.hints]
            stream.queued = True
            self._flush = True
            if rest_seconds > 0:
                wake = partial(self._wake, work.stream_id)
                self._resting[work.stream_id] = asyncio.get_running_loop().call_later(rest_seconds, wake)
                return
        else:
            self._put_down(work.hints)
        if stream.queued:
            self._put(work.stream_id, self._hinted if stream.hints else self._swept)
        else:
            del self._streams[work.stream_id]
            self._changed.set()

    def _wake(self, stream_id: str) -> None:
        del self._resting[stream_id]
        self._flush = True
        self._put(stream_id, self._hinted if self._streams[stream_id].hints else self._swept)
