"""Conversations with plans of 100 kB, on which messages arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson

from projections.plan import build_plan
from tests.benchmarks.workload import RawEvent, Workload

_DIFFERENT_PLANS = 10
_MESSAGE = {"content": "The strategy now returns 42 genes; shall I narrow it down any further? " * 8}


@dataclass(frozen=True, slots=True)
class OneEach:
    """One event for each of so many streams."""

    streams: int
    event: Callable[[int], RawEvent]

    @property
    def stream_ids(self) -> list[str]:
        return [f"chat-{number}" for number in range(self.streams)]

    def __iter__(self) -> Iterator[tuple[int, RawEvent]]:
        return ((stream, self.event(stream)) for stream in range(self.streams))


def plan_event(stream: int) -> RawEvent:
    """The assistant writes the whole plan of a conversation."""
    return b"", b"graph_plan", orjson.dumps({"plan": plan(stream), "name": f"Plan {stream}"})


def message_event(stream: int) -> RawEvent:
    """A message of about 600 bytes."""
    return b"", b"assistant_message", orjson.dumps(_MESSAGE | {"messageId": f"msg-{stream}"})


def plan(stream: int) -> dict[str, Any]:
    """A stream's plan; some streams have the same."""
    return _plan(stream % _DIFFERENT_PLANS)


@cache
def _plan(number: int) -> dict[str, Any]:
    """The strategies of a long conversation, 100 kB, combined."""
    workload = Workload(1, 10_000, seed=number)
    events = (workload.event(0, at) for at in range(workload.events_a_stream))
    snapshots = (orjson.loads(data)["graphSnapshot"] for _, kind, data in events if kind == b"graph_snapshot")
    strategies = [built["root"] for snapshot in snapshots if (built := build_plan(snapshot))]
    while len(strategies) > 1:  # Two by two, so that the tree has few levels.
        pairs = zip(strategies[::2], strategies[1::2], strict=False)
        strategies = [
            {
                "id": f"union-{at}",
                "searchName": "__combine__",
                "parameters": {},
                "operator": "UNION",
                "primaryInput": first,
                "secondaryInput": second,
            }
            for at, (first, second) in enumerate(pairs)
        ]
    return {"recordType": "transcript", "root": strategies[0], "metadata": {"name": f"Plan {number}"}}
