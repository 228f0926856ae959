"""Points in time as people name them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.events import EventId
from worker.moments import END, START, moment_text, parse_moment

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
LAST = 2**64 - 1


def ms(day: int, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    return int(datetime(2026, 1, day, hour, minute, second, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1767312000000-3", EventId(1767312000000, 3)),
        ("1767312000000", EventId(1767312000000, LAST)),
        ("0", EventId(0, LAST)),
        ("start", START),
        ("now", END),
        ("2026-01-02T10:30", EventId(ms(2, 10, 30), LAST)),
        ("2026-01-02 10:30:00.123Z", EventId(ms(2, 10, 30) + 123, LAST)),
        ("2026-01-02T10:30:00.1239", EventId(ms(2, 10, 30) + 123, LAST)),
        ("2026-01-02T10:30:00+02:00", EventId(ms(2, 8, 30), LAST)),
        ("2026-01-02", EventId(ms(2), LAST)),
        ("1969-12-31T23:59:59", START),
        ("0001-01-01T00:00:00+14:00", START),
        ("-30s", EventId(ms(2, 11, 59, 30), LAST)),
        ("-5m", EventId(ms(2, 11, 55), LAST)),
        ("-2h", EventId(ms(2, 10), LAST)),
        ("-1d", EventId(ms(1, 12), LAST)),
        ("-999999999d", START),
    ],
)
def test_points_that_are_understood(text: str, moment: EventId) -> None:
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "5m",
        "-5",
        "-5w",
        "10:30",
        "1-2-3",
        "01-0",
        f"{2**64}",
        "-\u0665m",
        "\u0665",
        "2026-13-01",
    ],
)
def test_what_is_no_point_in_time_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no point in time: give an event id, .* start or now\.$"):
        parse_moment(text, NOW)


@given(st.datetimes(min_value=datetime(1970, 1, 1)), st.integers(0, LAST))
def test_every_event_up_to_a_time_counts_and_no_later_one(time: datetime, seq: int) -> None:
    moment = parse_moment(time.isoformat(), NOW)
    at = EventId(
        (time.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1), seq
    )
    assert at <= moment < EventId(at.ms + 1, 0)


@pytest.mark.parametrize("moment", [START, END, EventId(5, 3), EventId(5, LAST)])
def test_a_point_is_told_as_it_can_be_given(moment: EventId) -> None:
    assert parse_moment(moment_text(moment), NOW) == moment
