"""What becomes of an event whose handler raises, and how its error is told."""

from __future__ import annotations

import traceback
from enum import StrEnum


class Poison(StrEnum):
    """A projection's policy for events whose handler raises."""

    STOP = "stop"
    """The stream stops before the event until it is retried or skipped."""
    GO_ON = "pass"
    """The event leaves a letter, and its stream goes on without it."""


def error_text(error: Exception) -> str:
    """An error with its traceback, as dead letters keep it."""
    return "".join(traceback.format_exception(error))


def place_of(error: Exception) -> str:
    """What was raised, and where. Its text may quote the payload; the dead letter has all of it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.name}, line {frame.lineno} of {frame.filename}"
