"""The chaos test; what it does and how to run it longer is said in `tests.chaos`."""

from __future__ import annotations

import os
import secrets

import pytest

from tests.chaos.run import play

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))


async def test_whatever_fails_the_table_is_that_of_a_single_reader(
    pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    def show(text: str) -> None:
        with capsys.disabled():
            pytestconfig.get_terminal_writer().line(f"\n{text}")

    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
    show(f"chaos for {SECONDS:g} s, CHAOS_SEED={seed}")
    report = await play(seed, SECONDS)
    show(str(report))
    assert report.failures == []
