"""The chaos test; what it does and how to run it longer is said in `tests.chaos`."""

from __future__ import annotations

import os
import secrets
import sys

import pytest

from tests.chaos.run import play

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))


async def test_whatever_fails_the_table_is_that_of_a_single_reader(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def show(text: str) -> None:
        # Standard error: that of a process beside pytest's own leads to the terminal, too.
        with capsys.disabled():
            sys.stderr.write(f"\n{text}\n")

    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
    show(f"chaos for {SECONDS:g} s, CHAOS_SEED={seed}")
    report = await play(seed, SECONDS)
    show(str(report))
    assert report.failures == []
