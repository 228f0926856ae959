"""The law of replay: whatever replicas do while a log grows, the rows are the fold of the log."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from worker.events import AnyEvent
from worker.projection import Projection
from worker.testing.drafts import Draft, events
from worker.testing.kept import told_differences
from worker.testing.memory import MemoryReplica, MemoryTable, rebuild
from worker.testing.purity import Checked, fold_purely

if TYPE_CHECKING:
    from worker.testing.worlds import Worlds

Payload = Mapping[str, Any] | bytes
StreamDraft = tuple[str, str, Payload]
"""A stream, a type and a payload, in the order in which they are appended."""

_LONGEST_BATCH = 8


def assert_replay_equals_live(
    projection: Projection,
    appended: Iterable[StreamDraft | Draft],
    *,
    schedules: int = 3,
    seed: int = 0,
    world: Worlds | None = None,
) -> None:
    """The rows and child rows of all streams are the fold of their logs, however these were projected.

    ``appended`` are ``(stream, type, payload)`` in the order of time; ``(type, payload)`` is of one stream.
    Meanwhile two replicas take streams in batches that end anywhere, take them twice, write late, restart
    with an empty cache, and a rebuild comes in between: at random, in ``schedules`` different ways that
    follow from ``seed``. In memory, without servers, unless ``world`` gives some: the fixture
    ``projection_world``, which takes a single schedule to last some 100 ms.

    Raises AssertionError, which names the stream, what differs and what was done; and for a handler that is
    not pure as `worker.testing.given` does. A stream whose handler raises stops there in both.
    """
    __tracebackhide__ = True
    ordered = [(one if len(one) == 3 else ("stream", *one)) for one in appended]
    logs = _logs(projection, ordered)
    expected = {stream_id: fold_purely(projection, log) for stream_id, log in logs.items()}
    if world is not None:
        from worker.testing.replay_on_servers import replay_on_servers

        replay_on_servers(world, projection, ordered, seed)
        return
    for schedule in range(schedules):
        _replay(projection, ordered, logs, expected, random.Random(f"{seed} {schedule}"))


def _logs(projection: Projection, ordered: Sequence[StreamDraft]) -> dict[str, Sequence[AnyEvent]]:
    """The projected events of each stream."""
    drafts: dict[str, list[Draft]] = defaultdict(list)
    for stream_id, event_type, payload in ordered:
        if event_type in projection.types:
            drafts[stream_id].append((event_type, payload))
    return {stream_id: events(*some) for stream_id, some in drafts.items()}


def _replay(
    projection: Projection,
    ordered: Sequence[StreamDraft],
    logs: Mapping[str, Sequence[AnyEvent]],
    expected: Mapping[str, Checked],
    chance: random.Random,
) -> None:
    __tracebackhide__ = True
    table = MemoryTable(projection)
    replicas = [MemoryReplica("replica 1", table), MemoryReplica("replica 2", table)]
    length = dict.fromkeys(logs, 0)
    for stream_id, event_type, _ in ordered:
        if event_type in projection.types:
            length[stream_id] += 1
        while length and chance.random() < 0.5:
            some = chance.choice([*length])
            _move(table, chance.choice(replicas), some, logs[some][: length[some]], chance)
    for stream_id, log in logs.items():
        for _ in range(2):  # The first pass may find that it comes too late.
            replicas[0].project(stream_id, log, len(log))
    check_replayed(projection, expected, table)


def _move(
    table: MemoryTable, replica: MemoryReplica, stream_id: str, log: Sequence[AnyEvent], chance: random.Random
) -> None:
    """Something that happens to a stream."""
    what = chance.random()
    if what < 0.1:
        replica.restart()
    elif what < 0.2:
        rebuild(table, stream_id, log, chance.randint(1, _LONGEST_BATCH))
    else:
        replica.project(stream_id, log, chance.randint(1, _LONGEST_BATCH))


def check_replayed(projection: Projection, expected: Mapping[str, Checked], table: MemoryTable) -> None:
    """Raise AssertionError where rows are not the fold of their logs."""
    __tracebackhide__ = True
    for stream_id, checked in expected.items():
        if wrong := [*told_differences(projection, checked.kept, table.kept(stream_id))]:
            heading = f"Stream {stream_id!r} of projection {projection.name} is not the fold of its log:"
            done = table.history.get(stream_id, [])
            raise AssertionError("\n  ".join([heading, *wrong, "It was projected in this way:", *done]))
