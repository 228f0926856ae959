"""Points in a log as people name them. A point is the last event id that counts. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from worker.events import EventId

_LAST = (1 << 64) - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_AGO = re.compile(r"-(\d{1,9})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

START: Final = EventId(0, 0)
"""Before every event: Redis gives no entry this id."""
END: Final = EventId(_LAST, _LAST)
"""After every event."""


def parse_moment(text: str, now: datetime) -> EventId:
    """The last event id that counts at a point which somebody names.

    An event id; the milliseconds of one alone, for all events of that millisecond; a time in ISO 8601, in UTC
    unless it says otherwise, for all events up to that millisecond, its own included (``2026-01-02T10:30`` is
    the first millisecond of that minute); ``-30s``, ``-5m``, ``-2h`` or ``-7d`` for a time before ``now``;
    ``start``, before every event; ``now``, after every event. Raises ValueError with a sentence for anything
    else.
    """
    if text == "start":
        return START
    if text == "now":
        return END
    if ago := _AGO.fullmatch(text):
        return _before(now, timedelta(**{_UNITS[ago[2]]: int(ago[1])}))
    if text.isascii() and text.isdigit() and int(text) <= _LAST:
        return EventId(int(text), _LAST)
    try:
        return EventId.parse(text)
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no point in time: give an event id, its milliseconds, a time such as "
            "2026-01-02T10:30:00.500 (UTC, unless it says otherwise), -5m (or s, h, d), start or now."
        ) from None
    return _at(time if time.tzinfo else time.replace(tzinfo=UTC))


def _before(now: datetime, ago: timedelta) -> EventId:
    try:
        return _at(now - ago)
    except OverflowError:
        return START


def _at(time: datetime) -> EventId:
    milliseconds = (time - _EPOCH) // _MILLISECOND
    return EventId(milliseconds, _LAST) if milliseconds >= 0 else START


def moment_text(event_id: EventId) -> str:
    """A point as it can be given to `parse_moment`, and is read most easily."""
    if event_id == START:
        return "start"
    if event_id == END:
        return "now"
    return str(event_id.ms) if event_id.seq == _LAST else str(event_id)
