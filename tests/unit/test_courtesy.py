"""For how long a rebuild rests: by the rate, and by whether live projection waits."""

from __future__ import annotations

import pytest

from worker.courtesy import Rate, Share


def test_a_rebuild_that_nobody_waits_for_does_not_rest() -> None:
    share = Share()
    share.adapt(others_wait=False)
    assert share.pause_after(3.0) == 0


def test_while_others_wait_it_works_less_and_less_but_never_stops() -> None:
    share = Share()
    pauses = []
    for _ in range(10):
        share.adapt(others_wait=True)
        pauses.append(share.pause_after(0.1))
    assert pauses[0] == pytest.approx(0.1)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(0.5), "a sixth of the time is left"


def test_it_works_all_the_time_again_once_nobody_waits_any_more() -> None:
    share = Share()
    for _ in range(10):
        share.adapt(others_wait=True)
    looks = 0
    while share.pause_after(1.0):
        share.adapt(others_wait=False)
        looks += 1
    assert 5 <= looks <= 20, "not at once"


def test_no_single_rest_is_long() -> None:
    share = Share()
    share.adapt(others_wait=True)
    assert share.pause_after(3_600) <= 2


def test_a_rate_is_kept_from_part_to_part(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("worker.courtesy.monotonic", lambda: now)
    rate = Rate(10)
    assert rate.in_half_a_second == 5
    assert rate.reserve(5) == 0
    assert rate.reserve(5) == pytest.approx(0.5)
    assert rate.reserve(5) == pytest.approx(1.0)
    now = 200.0  # What was not used meanwhile is not saved up.
    assert rate.reserve(20) == 0
    assert rate.reserve(1) == pytest.approx(2.0)
    assert Rate(0.1).in_half_a_second == 1
