"""Rows of the strategies read model as tests make and look at them."""

from __future__ import annotations

import json
from typing import Any

from projections import strategies
from worker import Event, EventId
from worker.fold import Folded
from worker.row import RawJson

Said = tuple[str, dict[str, Any]]

NOT_TEXT: list[Any] = [None, 5, 1.5, True, ["x"], {"x": "y"}]
NOT_TEXT_OR_EMPTY = [*NOT_TEXT, ""]
NOT_AN_OBJECT: list[Any] = [None, "x", 5, True, [], [{}]]


def folded(*said: Said) -> Folded:
    """A new row after these events, whose ids are 5-0, 5-1 and so on."""
    events = [Event(EventId(5, number), event_type, data) for number, (event_type, data) in enumerate(said)]
    return strategies.fold(strategies.new_state, events)


def row_after(*said: Said) -> dict[str, Any]:
    """The row's columns, JSON decoded."""
    fold = folded(*said)
    assert fold.failure is None
    assert fold.rejections == ()
    state = zip(strategies.columns, fold.state, strict=True)
    return {name: json.loads(value.text) if isinstance(value, RawJson) else value for name, value in state}


def facts_after(*said: Said) -> tuple[Any, ...]:
    """What the events tell the claims."""
    return folded(*said).facts


def change(*said: Said) -> dict[str, Any]:
    """What these events change of a new row."""
    new = row_after()
    return {name: value for name, value in row_after(*said).items() if value != new[name]}
