"""One dead letter with what is around it: its entry in the log, its row's position, what waits behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.dead_letters import StoredLetter
from worker.events import EventId
from worker.letters import State
from worker.log import Log, PageRequest
from worker.store import Store

_COUNTED_AT_MOST = 1_000
_PAGES_AT_MOST = 20


@dataclass(frozen=True, slots=True)
class Inspection:
    """A letter and what is around it.

    ``entry`` holds the raw fields of the event's entry, and is None where the log has no such entry any more.
    ``position`` is the row's, None where nothing of the stream is projected yet. ``waiting`` events of
    projected types stand behind the event in the log and wait for it; None where none has to. If ``counted``
    is false there may be more of them.
    """

    letter: StoredLetter
    entry: Sequence[bytes] | None
    position: EventId | None
    waiting: int | None = None
    counted: bool = True

    @property
    def blocks(self) -> bool:
        """Whether the stream stands before the event because of this letter."""
        return _blocks(self.letter, self.position)


async def inspect_letter(letter: StoredLetter, store: Store, logs: Log) -> Inspection:
    """Look at the servers. Changes nothing; what is told may have changed in between."""
    stored = (await store.positions([letter.stream_id])).get(letter.stream_id)
    position = EventId.parse(stored) if stored is not None else None
    entry = await logs.entry(letter.stream_id, str(letter.event_id))
    if not _blocks(letter, position):
        return Inspection(letter, entry, position)
    return Inspection(letter, entry, position, *await _count_waiting(letter, logs))


def _blocks(letter: StoredLetter, position: EventId | None) -> bool:
    return letter.state is State.OPEN and (position is None or position < letter.event_id)


async def _count_waiting(letter: StoredLetter, logs: Log) -> tuple[int, bool]:
    """How many projected events a log holds after the letter's, and whether that is all of them."""
    waiting, start = 0, str(letter.event_id)
    for _ in range(_PAGES_AT_MOST):
        [page] = await logs.read([PageRequest(letter.stream_id, start)])
        waiting += len(page.events)
        if page.ended or page.last_id is None:
            return waiting, True
        if waiting >= _COUNTED_AT_MOST:
            break
        start = page.last_id
    return waiting, False
