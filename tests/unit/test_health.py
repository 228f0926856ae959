"""What is wrong with a worker at present."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from worker.health import Health
from worker.retry import Perseverance


def test_a_worker_without_problems_is_ready() -> None:
    assert Health().ready


def test_a_worker_is_not_ready_until_its_last_problem_is_over() -> None:
    health = Health()
    health.report("reading hints", "no route")
    health.report("projecting", "no table")
    health.over("reading hints")
    assert not health.ready
    health.over("projecting")
    assert health.ready


def test_a_problem_that_goes_on_keeps_its_beginning_and_gets_the_newer_reason() -> None:
    health = Health()
    health.report("projecting", "no route")
    (first,) = health.problems()
    health.report("projecting", "no table")
    (second,) = health.problems()
    assert (second.since, second.what) == (first.since, "no table")


def test_what_was_no_problem_is_over_all_the_same() -> None:
    health = Health()
    health.over("projecting")
    assert health.ready


def test_projections_have_problems_of_their_own_and_share_those_of_the_worker() -> None:
    health = Health()
    health.report("checking PostgreSQL", "no route")
    health.report("projecting", "no table", "a")
    health.report("projecting", "no right", "b")
    health.over("projecting", "b")
    assert [problem.what for problem in health.problems("a")] == ["no route", "no table"]
    assert [problem.what for problem in health.problems("b")] == ["no route"]


def test_a_problem_is_a_sentence() -> None:
    health = Health()
    health.report("projecting", "no table")
    (problem,) = health.problems()
    assert str(problem) == f"projecting, since {problem.since:%Y-%m-%d %H:%M:%S} UTC: no table"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_attempt_that_does_not_end_is_stuck_and_one_that_ended_is_not() -> None:
    clock = Clock()
    health = Health(clock)
    ended, _ = health.begin("acknowledging", "a"), health.begin("acknowledging", "a")
    health.begin("connecting to Redis")
    health.end(ended)
    clock.now = 60
    assert health.stuck(timedelta(seconds=60)) == []
    clock.now = 61
    assert health.stuck(timedelta(seconds=60)) == [
        "acknowledging of a has taken 61 s and does not end.",
        "connecting to Redis has taken 61 s and does not end.",
    ]
    assert health.ready


async def test_what_fails_again_and_again_is_not_stuck_and_is_counted() -> None:
    clock, stop = Clock(), asyncio.Event()
    health = Health(clock)
    stuck: list[str] = []

    async def refused() -> None:
        clock.now += 100
        stuck.extend(health.stuck(timedelta(seconds=150)))
        if clock.now < 500:
            raise ConnectionRefusedError

    await Perseverance(stop, health, projection="a")("projecting", refused)
    assert stuck == []
    assert health.retries == {("a", "reconnect"): 4}
