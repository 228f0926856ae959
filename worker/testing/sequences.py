"""Hypothesis strategies for what is appended to the logs of several streams."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from worker.errors import MissingExtraError
from worker.projection import Projection
from worker.testing.replay import Payload, StreamDraft

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

_NO_OBJECTS = (b"", b"{", b"[]", b"null", b'"text"', b"\xff", b'{"a":')
_ODD_VALUES: tuple[Any, ...] = (None, True, -1, 2**70, 1e23, "", "\0", "é" * 100, [], {}, [{}], {"a": None})


def event_sequences(
    projection: Projection,
    payloads: Mapping[str, SearchStrategy[Mapping[str, Any]]],
    *,
    streams: Sequence[str] = ("a", "b", "c"),
    max_size: int = 20,
    malformed: bool = False,
) -> SearchStrategy[list[StreamDraft]]:
    """Lists of ``(stream, type, payload)`` for `assert_replay_equals_live`, up to ``max_size`` long.

    ``payloads`` are strategies by event type. With ``malformed`` one in four payloads is no JSON object, or
    lacks a field, or holds an odd value in one. Raises TypeError for a type without a handler, and
    MissingExtraError where hypothesis is not installed.
    """
    try:
        from hypothesis import strategies as st
    except ImportError:
        raise MissingExtraError(
            "event_sequences needs hypothesis: run pip install 'projection-worker[testing]'."
        ) from None
    if unknown := sorted(payloads.keys() - projection.types):
        raise TypeError(f"Projection {projection.name} has no handler for {', '.join(unknown)}.")

    def mixed(fitting: SearchStrategy[Mapping[str, Any]]) -> SearchStrategy[Payload]:
        if not malformed:
            return fitting
        return st.one_of(fitting, fitting, fitting, _malformed(fitting))

    chosen = [
        st.tuples(st.sampled_from(streams), st.just(event_type), mixed(fitting))
        for event_type, fitting in payloads.items()
    ]
    return st.lists(st.one_of(chosen), max_size=max_size)


def _malformed(fitting: SearchStrategy[Mapping[str, Any]]) -> SearchStrategy[Payload]:
    from hypothesis import strategies as st

    @st.composite
    def spoiled(draw: st.DrawFn) -> Payload:
        payload = dict(draw(fitting))
        if not payload:
            return draw(st.sampled_from(_NO_OBJECTS))
        field = draw(st.sampled_from(sorted(payload)))
        del payload[field]
        if draw(st.booleans()):
            payload[field] = draw(st.sampled_from(_ODD_VALUES))
        # As it stands, since what emit refuses may still get into a log by other ways.
        return json.dumps(payload, default=str).encode()

    return st.one_of(st.sampled_from(_NO_OBJECTS), spoiled())
