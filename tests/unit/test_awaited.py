"""An event that is waited for: which answer its row and its log give."""

from __future__ import annotations

from typing import Any

import pytest

from worker import EventId, ProjectionTimeoutError, StreamBlockedError, StreamDivergedError
from worker.awaited import REACHED, Answer, AwaitedEvent
from worker.whereabouts import LogStanding, RowStanding, Stop

NO_ROW = RowStanding()


def awaiting(event_id: str = "10-0") -> AwaitedEvent:
    return AwaitedEvent("strategies", "a", EventId.parse(event_id))


def row(position: str | None, *stopped_before: str) -> RowStanding:
    stops = tuple(Stop(EventId.parse(event_id), "add", "handler_failed") for event_id in stopped_before)
    return RowStanding(has_row=True, position=position, stops=stops)


def log(last_projected: str | None = "10-0", **changes: Any) -> LogStanding:
    said: dict[str, Any] = {
        "last_id": EventId(99, 0),
        "last_projected": EventId.parse(last_projected) if last_projected else None,
        "go_on": None,
        "fits": True,
        **changes,
    }
    return LogStanding(**said)


def answer(awaited: AwaitedEvent) -> Answer | None:
    return awaited.answer.result() if awaited.answer.done() else None


def look(awaited: AwaitedEvent, at: RowStanding, said: LogStanding | None) -> Answer | None:
    """A look at the row and one at the log."""
    awaited.meet_row(at)
    awaited.meet_log(awaited.question(), said, now=0)
    return answer(awaited)


@pytest.mark.parametrize("position", ["10-0", "10-1", "11-0", "100-0"])
async def test_a_row_at_or_beyond_the_event_ends_the_wait(position: str) -> None:
    awaited = awaiting()
    awaited.meet_row(row(position))
    assert answer(awaited) is REACHED


@pytest.mark.parametrize("at", [NO_ROW, row(None), row("9-0"), row("9-999")])
async def test_a_row_before_the_event_does_not(at: RowStanding) -> None:
    assert look(awaiting(), at, log()) is None


async def test_ids_are_compared_as_numbers() -> None:
    awaited = awaiting("5-10")
    awaited.meet_row(row("5-9"))
    assert answer(awaited) is None


async def test_an_event_that_is_not_projected_waits_for_the_last_projected_one_before_it() -> None:
    awaited = awaiting()
    assert look(awaited, row("3-0"), log("7-0")) is None
    awaited.meet_row(row("6-0"))
    assert answer(awaited) is None
    awaited.meet_row(row("7-0"))
    assert answer(awaited) is REACHED


@pytest.mark.parametrize("at", [NO_ROW, row(None), row("3-0")])
async def test_nothing_projected_up_to_the_event_ends_the_wait(at: RowStanding) -> None:
    assert look(awaiting(), at, log(None)) is REACHED


async def test_a_long_log_is_read_on_at_once() -> None:
    awaited = awaiting()
    assert look(awaited, row("3-0"), log(None, go_on="(8-0")) is None
    assert (awaited.question().start, awaited.log_due) == ("(8-0", 0)
    assert look(awaited, row("3-0"), log(None)) is REACHED


@pytest.mark.parametrize("position", [None, "4-0"])
@pytest.mark.parametrize("stopped_before", ["5-0", "10-0"])
async def test_a_dead_letter_in_the_way_is_the_answer(position: str | None, stopped_before: str) -> None:
    awaited = awaiting()
    awaited.meet_row(row(position, stopped_before))
    error = answer(awaited)
    assert isinstance(error, StreamBlockedError)
    assert (error.stream_id, error.event_id, error.position) == ("a", "10-0", position)
    assert (error.stopped_before, error.reason) == (stopped_before, "handler_failed")
    assert f"dead-letters show a {stopped_before}" in str(error)


async def test_a_dead_letter_after_the_event_is_not() -> None:
    awaited = awaiting()
    awaited.meet_row(row("4-0", "10-1"))
    assert answer(awaited) is None


async def test_a_log_that_lacks_the_position_is_believed_only_when_the_row_still_stands_there() -> None:
    awaited = awaiting()
    assert look(awaited, row("4-0"), log(fits=False)) is None
    awaited.meet_log(awaited.question(), log(fits=False), now=0)
    assert answer(awaited) is None, "the row has not been looked at since"
    assert look(awaited, row("5-0"), log(fits=False)) is None
    error = look(awaited, row("5-0"), log(fits=False))
    assert isinstance(error, StreamDivergedError)
    assert error.position == "5-0"


async def test_a_log_that_is_gone_lacks_the_position() -> None:
    awaited = awaiting()
    assert look(awaited, row("4-0"), None) is None
    assert isinstance(look(awaited, row("4-0"), None), StreamDivergedError)


async def test_a_position_that_no_log_can_hold_is_diverged_at_once() -> None:
    awaited = awaiting()
    awaited.meet_row(row("somewhere"))
    assert isinstance(answer(awaited), StreamDivergedError)


async def test_what_a_log_said_for_another_position_is_of_no_interest() -> None:
    awaited = awaiting()
    awaited.meet_row(row("3-0"))
    asked = awaited.question()
    awaited.meet_row(row("2-0"))
    awaited.meet_log(asked, log(None), now=0)
    assert answer(awaited) is None


@pytest.mark.parametrize("said", [None, log(None, last_id=EventId(9, 0))])
async def test_a_log_that_was_never_that_far_is_waited_for_and_told_of(said: LogStanding | None) -> None:
    awaited = awaiting()
    assert look(awaited, NO_ROW, said) is None
    assert "The log does not reach that event" in str(awaited.timed_out(1, {}))
    assert look(awaited, NO_ROW, log()) is None
    assert "The log does not reach" not in str(awaited.timed_out(1, {}))


async def test_pauses_between_looks_double_until_somebody_wakes() -> None:
    awaited = awaiting()
    pauses = []
    for _ in range(8):
        awaited.put_off_row(0, longest_pause=1)
        pauses.append(awaited.row_due)
    assert pauses == [0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1, 1]
    awaited.wake()
    assert awaited.row_due == 0
    awaited.put_off_row(0, longest_pause=1)
    assert awaited.row_due == 0.02


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (None, "its row could not be looked at"),
        (NO_ROW, "it has no row yet"),
        (row(None), "its row has no position yet"),
        (row("7500-3"), "its row stands at 7500-3, 2.5 s before it"),
    ],
)
async def test_the_answer_when_the_time_is_up_says_where_the_row_stands(
    at: RowStanding | None, words: str
) -> None:
    awaited = awaiting("10000-0")
    if at is not None:
        awaited.meet_row(at)
    error = awaited.timed_out(0.5, {"PostgreSQL": "OSError: refused"})
    assert isinstance(error, ProjectionTimeoutError)
    assert str(error) == (
        f"Event 10000-0 of stream a was not projected by strategies within 0.5 s: {words}. "
        "PostgreSQL could not be asked lately: OSError: refused. "
        "See `projection-worker status` for whether a worker runs and how far behind it is."
    )
