"""What the benchmark makes of its measurements: medians, shares of processor time, targets, tables."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.benchmarks.measurement import Figure, Name, Run, Target, number
from tests.benchmarks.plot import BACKLOGS, LATENCY, save_plot
from tests.benchmarks.report import figures_table, targets_table

WORKER = Figure("chat", "projection-worker", "events/s", [Run(300), Run(100), Run(200)])
NAIVE = Figure("chat", "naive", "events/s", [Run(4)], note="on fewer events")


def printed(*tables: object) -> str:
    console = Console(width=150, file=io.StringIO())
    console.print(*tables)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_figure_is_the_median_of_its_runs_and_has_their_range() -> None:
    assert (WORKER.median, WORKER.least, WORKER.most) == (200, 100, 300)


def test_processor_time_is_told_in_cores_of_each_process() -> None:
    runs = [Run(1, {"worker": 1.0, "Redis": 0.5}, seconds=2), Run(1, {"worker": 3.0}, seconds=4), Run(1)]
    assert Figure("chat", "worker", "events/s", runs).cores == {"worker": 0.625, "Redis": 0.125}


@pytest.mark.parametrize(
    ("target", "found", "holds"),
    [
        (Target(WORKER.name, NAIVE.name, at_least=50), 50, True),
        (Target(WORKER.name, NAIVE.name, at_least=51), 50, False),
        (Target(WORKER.name, at_most=200), 200, True),
        (Target(WORKER.name, at_most=199), 200, False),
    ],
)
def test_a_target_is_held_against_the_medians(target: Target, found: float, *, holds: bool) -> None:
    verdict = target.verdict([WORKER, NAIVE])
    assert verdict is not None
    assert (verdict.found, verdict.holds) == (found, holds)


def test_a_target_says_nothing_of_what_was_not_measured() -> None:
    target = Target(WORKER.name, Name("chat", "somebody"), at_least=1)
    assert target.verdict([WORKER, NAIVE]) is None


@pytest.mark.parametrize(("at_least", "at_most"), [(None, None), (1.0, 2.0)])
def test_a_target_has_one_bound(at_least: float | None, at_most: float | None) -> None:
    with pytest.raises(ValueError, match="needs one bound"):
        Target(WORKER.name, at_least=at_least, at_most=at_most)


def test_the_table_shows_how_many_times_each_baseline_the_worker_is() -> None:
    text = printed(figures_table([WORKER, NAIVE]))
    assert "100 to 300" in text
    assert "naive (on fewer events)" in text
    assert "50.0 x" in text


def test_the_table_shows_what_the_subject_itself_and_the_servers_took() -> None:
    run = Run(1, {"worker": 0.5, "Redis": 0.25, "PostgreSQL": 1.5}, seconds=1)
    text = printed(figures_table([Figure("chat", "worker", "events/s", [run])]))
    assert [cell.strip() for cell in text.splitlines()[4].split("│")][-4:-1] == ["0.50", "0.25", "1.50"]


def test_the_table_of_targets_shows_which_do_not_hold() -> None:
    targets = [Target(WORKER.name, NAIVE.name, at_least=bound) for bound in (40, 60)]
    verdicts = [verdict for target in targets if (verdict := target.verdict([WORKER, NAIVE]))]
    text = printed(targets_table(verdicts))
    assert "chat: projection-worker, at least 40 times naive" in text
    assert text.count("does not hold") == 1


def test_figures_can_be_written_as_json() -> None:
    told = json.loads(json.dumps(WORKER.as_json()))
    assert told["median"] == 200
    assert [run["value"] for run in told["runs"]] == [300, 100, 200]


@pytest.mark.parametrize(
    ("value", "text"), [(123_456.7, "123,457"), (99.94, "99.9"), (9.876, "9.88"), (0.0, "0.00")]
)
def test_numbers_have_three_digits_or_all_before_the_point(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("with_latencies", [False, True])
def test_the_plot_is_a_png_of_what_was_measured(tmp_path: Path, *, with_latencies: bool) -> None:
    figures = [Figure(scenario, WORKER.subject, "events/s", WORKER.runs) for scenario in BACKLOGS]
    if with_latencies:
        figures.append(Figure("live", "p50", LATENCY, [Run(1.5)]))
    save_plot(figures, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
