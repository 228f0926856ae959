"""When a stream that seems wrong is said to be wrong: what must stay, and for how long. Without servers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import cast

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from projections import strategies
from worker import verify
from worker.difference import Difference
from worker.finding import Finding, Obstacle
from worker.log import Log
from worker.table import Stamp
from worker.verify import Verifier


def stamp(position: str = "5-0", generation: int = 0) -> Stamp:
    return Stamp(position, generation, 1)


def wrong(of: Stamp) -> Finding:
    return Finding("a", (Difference("a", "name", "x", "y"),), stamp=of)


def astray(of: Stamp, obstacle: Obstacle = Obstacle.DIVERGED) -> Finding:
    return Finding("a", obstacle=obstacle, stamp=of)


RIGHT = Finding("a", stamp=stamp())
MISSING = Finding("a", missing="1-0")
BUSY = astray(stamp(), Obstacle.BUSY)
PATIENCE = timedelta(seconds=4)


class Watched(Verifier):
    """A verifier that is shown one finding a second, the last of them for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shown: Sequence[Finding]) -> None:
        engine = create_async_engine("postgresql+asyncpg://nowhere/none")
        super().__init__(cast("Log", None), engine, strategies, patience=PATIENCE, pause=self.wait)
        self.seconds = 0
        self._shown = shown
        monkeypatch.setattr(verify, "monotonic", lambda: float(self.seconds))

    async def wait(self, _seconds: float) -> None:
        self.seconds += 1

    async def look(self, stream_ids: Sequence[str]) -> list[Finding]:
        return [self._shown[min(self.seconds, len(self._shown) - 1)]]

    async def _explained(self, finding: Finding) -> Finding:
        return finding

    async def outcome(self) -> tuple[Finding, int]:
        """What is said in the end, and after how many seconds."""
        [found] = await self.verify(["a"])
        return found, self.seconds


async def test_what_is_right_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await Watched(monkeypatch, [RIGHT]).outcome() == (RIGHT, 0)


async def test_a_difference_must_stay_in_several_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await Watched(monkeypatch, [wrong(stamp())]).outcome() == (wrong(stamp()), 2)
    assert await Watched(monkeypatch, [wrong(stamp()), wrong(stamp()), RIGHT]).outcome() == (RIGHT, 2)


async def test_a_row_may_move_on_and_stay_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [wrong(stamp(f"{number}-0")) for number in range(1, 9)]
    assert await Watched(monkeypatch, shown).outcome() == (wrong(stamp("3-0")), 2)


@pytest.mark.parametrize("finding", [MISSING, astray(stamp()), astray(stamp(), Obstacle.GONE)])
async def test_what_may_be_on_its_way_must_last_for_as_long_as_the_patience(
    monkeypatch: pytest.MonkeyPatch, finding: Finding
) -> None:
    assert await Watched(monkeypatch, [finding]).outcome() == (finding, 5)
    assert await Watched(monkeypatch, [finding] * 5 + [RIGHT]).outcome() == (RIGHT, 5)


async def test_what_was_seen_of_a_row_that_was_replaced_proves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undone_twice = [astray(stamp())] * 3 + [BUSY] + [astray(stamp("7-0", 1))] * 3 + [RIGHT]
    assert await Watched(monkeypatch, undone_twice).outcome() == (RIGHT, 7)
    rebuilt = [wrong(stamp()), wrong(stamp(generation=1)), wrong(stamp(generation=2)), RIGHT]
    assert await Watched(monkeypatch, rebuilt).outcome() == (RIGHT, 3)
    begun_anew = [MISSING] * 3 + [Finding("a", missing="2-0")] * 3 + [RIGHT]
    assert await Watched(monkeypatch, begun_anew).outcome() == (RIGHT, 6)
    moved_on = [astray(stamp("5-0"))] * 3 + [astray(stamp("6-0"))] * 3 + [RIGHT]
    assert await Watched(monkeypatch, moved_on).outcome() == (RIGHT, 6)


async def test_a_stream_that_is_replaced_all_the_time_is_given_up_as_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = [astray(stamp(generation=number)) for number in range(99)]
    found, seconds = await Watched(monkeypatch, shown).outcome()
    assert (found.obstacle, found.wrong, seconds) == (Obstacle.BUSY, False, 12)
