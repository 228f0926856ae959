"""One dead letter with what is around it: its entry in the log, its row's position, what waits behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.dead_letters import StoredLetter
from worker.events import EventId
from worker.lag import count_waiting
from worker.letters import State
from worker.log import Log
from worker.store import Store


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
    waiting = await count_waiting(logs, letter.stream_id, str(letter.event_id))
    return Inspection(letter, entry, position, waiting.events, waiting.counted)


def _blocks(letter: StoredLetter, position: EventId | None) -> bool:
    return letter.state is State.OPEN and (position is None or position < letter.event_id)
