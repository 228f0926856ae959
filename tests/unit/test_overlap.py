"""Reading, folding and writing at the same time."""

from __future__ import annotations

import asyncio

import pytest

from tests.waiting import wait_until
from worker.overlap import overlap


class Steps:
    """Notes what begins and ends; each step takes a turn of the loop."""

    def __init__(self, *, failing: str = "", endless: str = "") -> None:
        self.noted: list[str] = []
        self._failing = failing
        self._endless = endless

    async def read(self, part: int) -> int:
        await self._step(f"read {part}")
        return part

    async def fold(self, batch: int) -> None:
        await self._step(f"fold {batch}")

    async def write(self, batch: int) -> None:
        await self._step(f"write {batch}")

    async def _step(self, name: str) -> None:
        self.noted.append(name)
        try:
            await asyncio.sleep(0)
            if name == self._failing:
                raise ValueError(name)
            if name == self._endless:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.noted.append(f"{name} cancelled")
            raise
        self.noted.append(f"{name} done")

    def place(self, name: str) -> int:
        return self.noted.index(name)


async def run(steps: Steps, parts: int) -> None:
    await overlap(range(parts), steps.read, steps.fold, steps.write)


@pytest.mark.parametrize("parts", [0, 1, 2, 7])
async def test_every_part_is_read_folded_and_written_once_and_in_order(parts: int) -> None:
    steps = Steps()
    await run(steps, parts)
    for kind in ("read", "fold", "write"):
        done = [name for name in steps.noted if name.startswith(kind) and name.endswith("done")]
        assert done == [f"{kind} {part} done" for part in range(parts)]
    assert not any("cancelled" in name for name in steps.noted)


async def test_a_part_is_written_and_another_read_while_one_is_folded() -> None:
    steps = Steps()
    await run(steps, 5)
    assert steps.place("read 3") < steps.place("fold 2 done")
    assert steps.place("write 1") < steps.place("fold 2 done")
    for part in range(1, 5):
        assert steps.place(f"write {part - 1} done") < steps.place(f"write {part}")
        assert steps.place(f"fold {part} done") < steps.place(f"write {part}")


@pytest.mark.parametrize("failing", ["read 2", "fold 2", "write 2", "write 4"])
async def test_what_raises_ends_everything_that_is_under_way(failing: str) -> None:
    steps = Steps(failing=failing)
    with pytest.raises(ValueError, match=failing):
        await run(steps, 5)
    before = list(steps.noted)
    begun = {name for name in before if not name.endswith(("done", "cancelled"))}
    ended = {name.removesuffix(" done").removesuffix(" cancelled") for name in before if name not in begun}
    assert begun - ended == {failing}
    await asyncio.sleep(0.01)
    assert steps.noted == before


async def test_a_cancellation_ends_everything_that_is_under_way() -> None:
    steps = Steps(endless="write 1")
    running = asyncio.create_task(run(steps, 5))
    await wait_until(lambda: "write 1" in steps.noted, "a write")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    before = list(steps.noted)
    await asyncio.sleep(0.01)
    assert steps.noted == before
