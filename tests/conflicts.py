"""Conflicts over WDK strategies: what was projected before, and what replicas then project at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.conversations import Entry, Universe, entry_fields


def claim(at: int, wdk_strategy_id: int, *, saved: bool | None = None) -> Entry:
    payload = {"wdkStrategyId": wdk_strategy_id} | ({} if saved is None else {"isSaved": saved})
    return f"{at}-0", entry_fields("strategy_link", payload)


def save(at: int) -> Entry:
    return f"{at}-0", entry_fields("strategy_link", {"isSaved": True})


def clear(at: int) -> Entry:
    return f"{at}-0", entry_fields("graph_cleared", {})


def message(at: int) -> Entry:
    return f"{at}-0", entry_fields("user_message", {"content": "?"})


@dataclass(frozen=True, slots=True)
class Scenario:
    """What was projected before, what happened since, and which streams each replica then takes.

    Streams have names of one letter, so that "ab" is a batch of two.
    """

    batches: tuple[str, ...]
    projected: Universe = field(default_factory=dict)
    news: Universe = field(default_factory=dict)
    rows_deleted: str = ""
    undone: Mapping[str, int] = field(default_factory=dict)
    """How many of its last entries each stream has lost on purpose."""
    foreign: Mapping[str, int] = field(default_factory=dict)
    """Rows that another application made: each with a strategy, and without a position."""
    deleted: str = ""
    """Conversations whose log and row are gone."""

    @property
    def logs(self) -> Universe:
        """The logs as they are in the end."""
        logs: Universe = {}
        for stream_id in sorted({*self.projected, *self.news} - {*self.deleted}):
            before = self.projected.get(stream_id, [])
            kept = before[: len(before) - self.undone.get(stream_id, 0)]
            logs[stream_id] = kept + self.news.get(stream_id, [])
        return logs

    @property
    def only_grows(self) -> bool:
        return not (self.rows_deleted or self.undone or self.foreign or self.deleted)


SCENARIOS = {
    "new streams claim one strategy": Scenario(
        ("a", "b"),
        news={"a": [claim(10, 7, saved=True), save(15)], "b": [claim(12, 7, saved=True)]},
    ),
    "old streams claim one strategy": Scenario(
        ("a", "b"),
        projected={"a": [message(1)], "b": [message(2)], "c": [claim(5, 7, saved=True)]},
        news={"a": [claim(12, 7)], "b": [claim(12, 7), save(13)], "c": [save(11)]},
    ),
    "a claim comes late, between two others": Scenario(
        ("b", "a"),
        projected={"a": [claim(10, 7, saved=True)], "c": [claim(30, 7)]},
        news={"b": [claim(12, 7, saved=True)], "a": [save(15), message(31)]},
    ),
    "two strategies of one stream are taken at once": Scenario(
        ("b", "c"),
        projected={"a": [claim(10, 7, saved=True), claim(20, 8)], "b": [message(1)], "c": [message(1)]},
        news={"b": [claim(12, 7)], "c": [claim(30, 8)]},
    ),
    "batches swap strategies crosswise": Scenario(
        ("ab", "cd"),
        projected={"a": [claim(1, 7)], "b": [claim(2, 8)], "c": [claim(3, 9)], "d": [claim(4, 10)]},
        news={
            "a": [claim(20, 10, saved=True)],
            "b": [claim(21, 9)],
            "c": [claim(22, 8, saved=True)],
            "d": [claim(23, 7)],
        },
    ),
    "a holder clears while another claims": Scenario(
        ("a", "b"),
        projected={"a": [claim(1, 7, saved=True)], "b": [message(2)]},
        news={"a": [clear(20), claim(22, 8, saved=True)], "b": [claim(19, 7), claim(21, 8)]},
    ),
    "both take the same streams": Scenario(
        ("ab", "ba"),
        projected={"a": [claim(1, 7, saved=True)], "b": [message(2)]},
        news={"a": [clear(10), claim(14, 7)], "b": [claim(12, 7, saved=True)], "c": []},
    ),
    "both take the same new streams": Scenario(
        ("ab", "ab"),
        news={"a": [claim(10, 7), claim(14, 8, saved=True)], "b": [claim(12, 7, saved=True), claim(13, 8)]},
    ),
    "batches overlap, some of it new": Scenario(
        ("abc", "cbd"),
        projected={"b": [claim(2, 8, saved=True)]},
        news={"a": [claim(10, 7)], "b": [claim(11, 7)], "c": [claim(12, 8)], "d": [claim(9, 7), save(12)]},
    ),
    "an undo withdraws a claim while others claim": Scenario(
        ("b", "c"),
        projected={
            "a": [claim(10, 7, saved=True), save(16)],
            "b": [message(11), claim(12, 7), claim(14, 8)],
            "c": [message(1)],
        },
        news={"c": [claim(11, 7), claim(15, 8)]},
        rows_deleted="b",
        undone={"b": 2},
    ),
    "an undo gives back what is cleared meanwhile": Scenario(
        ("b", "a"),
        projected={"a": [claim(10, 7, saved=True)], "b": [message(11), claim(12, 7)]},
        news={"a": [clear(20), claim(21, 7)], "b": [message(22)]},
        rows_deleted="b",
        undone={"b": 1},
    ),
    "two undos, one upon the other": Scenario(
        ("b", "c"),
        projected={
            "a": [claim(10, 7, saved=True)],
            "b": [message(11), claim(12, 7, saved=True)],
            "c": [message(11), claim(13, 7)],
        },
        rows_deleted="bc",
        undone={"b": 1, "c": 1},
    ),
    "rows are folded anew by both": Scenario(
        ("abc", "cba"),
        projected={"a": [claim(10, 7), claim(20, 8)], "b": [claim(11, 7), clear(12)], "c": [claim(19, 8)]},
        news={"a": [claim(30, 7)], "c": [claim(29, 7, saved=True)]},
        rows_deleted="abc",
    ),
    "holders without history": Scenario(
        ("ab", "bc"),
        projected={"c": [message(1)]},
        news={"a": [claim(10, 7)], "b": [claim(12, 8), claim(13, 7)], "c": [claim(11, 8, saved=True)]},
        foreign={"f": 7, "g": 8},
    ),
    "a holder without history gets events": Scenario(
        ("fa", "b"),
        news={"a": [claim(10, 7)], "b": [claim(11, 8)], "f": [message(5), claim(12, 8, saved=True)]},
        foreign={"f": 7, "g": 8},
    ),
    "a deleted conversation gives back while others claim": Scenario(
        ("-b", "ca"),
        projected={"a": [claim(10, 7, saved=True)], "b": [claim(12, 7), claim(13, 8)], "c": [message(1)]},
        news={"a": [message(20)], "c": [claim(11, 7, saved=True), claim(14, 8)]},
        deleted="b",
    ),
    "a ring of three": Scenario(
        ("ab", "bc", "ca"),
        projected={"a": [claim(1, 7)], "b": [claim(2, 8, saved=True)], "c": [claim(3, 9)]},
        news={"a": [claim(20, 8)], "b": [claim(21, 9)], "c": [claim(22, 7, saved=True)]},
    ),
    "an undo, a new fold and a late claim": Scenario(
        ("b", "c", "da"),
        projected={
            "a": [claim(10, 7, saved=True)],
            "b": [message(11), claim(12, 7)],
            "c": [claim(14, 7), clear(15)],
        },
        news={"a": [save(16)], "d": [claim(13, 7), claim(17, 8)]},
        rows_deleted="bc",
        undone={"b": 1},
    ),
}  # fmt: skip
