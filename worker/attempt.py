"""What a call of `emit` sets out to append, and since when it may stand in the log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from worker.keys import Keys
from worker.traceparent import without_traceparent


@dataclass(frozen=True, slots=True)
class Since:
    """From when on an event may stand in its log: from a time, and after an entry that was there before.

    Two clocks, since one may stand still while the machine sleeps and the other may be set back.
    """

    after: str | None = None
    monotonic: float = field(default_factory=time.monotonic)
    unix: float = field(default_factory=time.time)

    @property
    def elapsed_ms(self) -> int:
        """How long ago that was."""
        elapsed = max(time.monotonic() - self.monotonic, time.time() - self.unix)
        return int(elapsed * 1000) + 1


@dataclass(frozen=True, slots=True)
class Attempt:
    """One event on its way into a log; ``data`` is its payload as JSON, in ASCII.

    ``traceparent`` says in which trace it is emitted, and makes it no other event.
    """

    stream_id: str
    operation_id: str
    event_type: str
    data: str = field(repr=False)
    hinted: bool
    keys: Keys
    since: Since
    traceparent: str | None = None

    @property
    def identity(self) -> int:
        """The same for attempts at the same event. For others, too, once in a very long while."""
        return hash((self.keys, self.stream_id, self.operation_id, self.event_type, self.data))

    @property
    def log(self) -> str:
        """The key of the log."""
        return self.keys.log(self.stream_id)

    @property
    def log_entry(self) -> tuple[str, ...]:
        """The command that appends the event."""
        traced = ("traceparent", self.traceparent) if self.traceparent else ()
        return ("XADD", self.log, "*", *self._fields, *traced)

    @property
    def _fields(self) -> tuple[str, ...]:
        return ("op", self.operation_id, "type", self.event_type, "data", self.data)

    @property
    def hints(self) -> list[tuple[str, ...]]:
        """The command that tells the workers of it, where its type is projected."""
        if not self.hinted:
            return []
        feed = self.keys.feed(self.keys.partition(self.stream_id))
        cap = ("MAXLEN", "~", str(self.keys.feed_max_length))
        return [("XADD", feed, *cap, "*", "stream", self.stream_id, "type", self.event_type)]

    def is_entry(self, fields: Sequence[bytes]) -> bool:
        """Whether an entry with these fields, ``[name, value, ...]``, is this event."""
        return list(without_traceparent(fields)) == [part.encode() for part in self._fields]
