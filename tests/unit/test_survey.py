"""What is kept of a survey, and the pace of a sample, without servers."""

from __future__ import annotations

from typing import cast

import pytest

from worker.difference import Difference
from worker.finding import Finding, Obstacle
from worker.sample import Sample
from worker.store import Store
from worker.survey import Survey
from worker.table import Stamp
from worker.verify import Verifier

STAMP = Stamp("1-0", 0, 1)


def right(stream_id: str) -> Finding:
    return Finding(stream_id, stamp=STAMP)


def wrong(stream_id: str, stored: str = "y", stamp: Stamp = STAMP) -> Finding:
    return Finding(stream_id, (Difference(stream_id, "name", "x", stored),), stamp=stamp)


def told_of(survey: Survey) -> list[str]:
    return [finding.stream_id for finding in survey.told]


def test_counts_are_whole_and_what_is_kept_is_bounded() -> None:
    survey = Survey(limit=2)
    for number in range(5):
        survey.note(right(f"right {number}"))
        survey.note(wrong(f"wrong {number}", stored="y" * 1_000_000))
    assert (survey.rows_compared, survey.wrong, len(survey.drifted)) == (10, 5, 5)
    assert (told_of(survey), survey.untold) == (["wrong 0", "wrong 1"], 3)
    assert all(len(d.stored) < 100 for finding in survey.told for d in finding.differences)


def test_what_is_wrong_is_told_first() -> None:
    survey = Survey(limit=2)
    survey.note(Finding("trimmed", obstacle=Obstacle.TRIMMED, stamp=STAMP))
    survey.note(Finding("trimmed, too", obstacle=Obstacle.TRIMMED, stamp=STAMP))
    survey.note(wrong("wrong"))
    assert (told_of(survey), survey.untold) == (["wrong", "trimmed"], 1)


def test_rows_of_other_versions_are_counted_and_told_only_where_they_were_named() -> None:
    survey = Survey(limit=9)
    survey.note(Finding("a", obstacle=Obstacle.OLDER_VERSION, stamp=STAMP))
    survey.note(Finding("b", obstacle=Obstacle.NOTHING), named=True)
    assert (told_of(survey), survey.untold, survey.wrong) == (["b"], 0, 0)
    assert survey.obstacles == {Obstacle.OLDER_VERSION: 1, Obstacle.NOTHING: 1}


class Rows:
    """Stands in for store and verifier: every row that is asked for is the same."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.finding = right("a")

    async def random_streams(self, limit: int) -> list[str]:
        self.asked.append(limit)
        return ["a"] * limit

    async def verify(self, stream_ids: list[str]) -> list[Finding]:
        return [self.finding for _ in stream_ids]


def sample_of(rows: Rows, per_minute: int) -> Sample:
    return Sample(cast("Verifier", rows), cast("Store", rows), per_minute=per_minute)


@pytest.mark.parametrize("per_minute", [1, 7, 60, 90, 1_000, 60_000])
async def test_rows_are_verified_at_an_even_pace(per_minute: int) -> None:
    rows = Rows()
    sample = sample_of(rows, per_minute)
    minutes = 3
    for _ in range(round(minutes * 60 / sample.pause_seconds)):
        await sample.check()
    assert sample.pause_seconds >= 1
    assert sample.rows_verified == pytest.approx(minutes * per_minute, abs=1)
    assert max(rows.asked) - min(rows.asked) <= 1


def test_a_sample_of_none_is_off() -> None:
    assert not sample_of(Rows(), 0).on


async def test_a_wrong_row_counts_once_for_each_stamp() -> None:
    rows = Rows()
    sample = sample_of(rows, 60)
    for stamp in (STAMP, STAMP, Stamp("2-0", 0, 1), Stamp("2-0", 0, 1)):
        rows.finding = wrong("a", stamp=stamp)
        await sample.check()
    assert (sample.rows_verified, sample.rows_drifted) == (4, 2)
