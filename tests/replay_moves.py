"""The moves of an example in which logs are folded while they change: what is done, and to which stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

OLD, NEW = 1, 2
STREAMS = ("a", "é")


@dataclass(frozen=True, slots=True)
class Append:
    """A producer appends an event."""

    stream: str
    event: tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Begin:
    """An actor starts on some streams, and is halted when it has come by the store so many times."""

    actor: int
    streams: tuple[str, ...]
    halt_at: int


@dataclass(frozen=True, slots=True)
class Finish:
    """An actor goes on to its end."""

    actor: int


@dataclass(frozen=True, slots=True)
class Undo:
    """An application takes back the last events of a conversation."""

    stream: str
    entries: int


@dataclass(frozen=True, slots=True)
class Delete:
    """An application deletes a conversation: its log, then its row; sooner or later a sweep comes by."""

    stream: str
    sweep: bool


@dataclass(frozen=True, slots=True)
class Trim:
    """Somebody trims a log up to the row's position, but for a few entries."""

    stream: str
    kept: int


@dataclass(frozen=True, slots=True)
class Skip:
    """An operator skips all events that stop a stream, with the command of some version."""

    version: int


@dataclass(frozen=True, slots=True)
class Due:
    """Time passes, and streams that are stopped are to be tried again."""


Move = Append | Begin | Finish | Undo | Delete | Trim | Skip | Due

EVENTS = st.one_of(
    st.just(("user_message", {})),
    st.just(("assistant_delta", {})),
    st.just(("graph_cleared", {})),
    st.builds(
        lambda wdk, saved: ("strategy_link", {"wdkStrategyId": wdk, "isSaved": saved}),
        st.integers(1, 2),
        st.booleans(),
    ),
    st.builds(lambda wdk: ("strategy_link", {"wdkStrategyId": wdk}), st.integers(1, 2)),
    st.builds(
        lambda model: ("model_selected", {"modelId": model}), st.sampled_from(["good", "1", "2", "12"])
    ),
)
_stream = st.sampled_from(STREAMS)
_streams = st.one_of(_stream.map(lambda stream: (stream,)), st.just(STREAMS))
_moves = {
    "append": st.builds(Append, _stream, EVENTS),
    "begin": st.builds(Begin, st.integers(0, 3), _streams, st.sampled_from([0, 1, 1, 2, 3, 99, 99])),
    "finish": st.builds(Finish, st.integers(0, 3)),
    "undo": st.builds(Undo, _stream, st.sampled_from([1, 1, 2, 99])),
    "delete": st.builds(Delete, _stream, st.booleans()),
    "trim": st.builds(Trim, _stream, st.integers(0, 2)),
    "skip": st.builds(Skip, st.sampled_from([OLD, NEW])),
    "due": st.just(Due()),
}
_SHARES = ("append",) * 8 + ("begin",) * 7 + ("undo",) * 3 + ("finish", "delete", "trim", "skip", "due")
MOVES = st.lists(st.one_of(*(_moves[kind] for kind in _SHARES)), min_size=20, max_size=50)
