"""How many events of a log wait behind a place in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from worker.events import EventId
from worker.log import Log, PageRequest

_COUNTED_AT_MOST = 1_000
PAGES_AT_MOST: Final = 20


@dataclass(frozen=True, slots=True)
class Waiting:
    """Events of projected types after a place in a log, and the first of them.

    If ``counted`` is false there may be more of them.
    """

    events: int
    counted: bool
    oldest: EventId | None


async def count_waiting(
    logs: Log, stream_id: str, after: str | None, *, pages_at_most: int = PAGES_AT_MOST
) -> Waiting:
    """Count the projected events after this one, None for all, and give up where there are many.

    Also where so many pages do not suffice: then ``oldest`` may be None, though there are some.
    """
    events, oldest, start = 0, None, after
    for _ in range(pages_at_most):
        page = await logs.count_projected(PageRequest(stream_id, start))
        events += page.events
        oldest = oldest or page.oldest
        if page.ended or page.last_id is None:
            return Waiting(events, True, EventId.parse(oldest) if oldest else None)
        if events >= _COUNTED_AT_MOST:
            break
        start = page.last_id
    return Waiting(events, False, EventId.parse(oldest) if oldest else None)
