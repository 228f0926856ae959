"""What the demo counts and measures, and how it says so."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from worker.comparison import Comparison
from worker.demo.progress import Lag, Latencies, Progress
from worker.demo.recent import RecentRows
from worker.demo.screen import ReplicaView, View, frame, plain_line
from worker.demo.surroundings import replica_environment
from worker.demo.verdict import Verdict, print_verdict
from worker.difference import Difference
from worker.events import EventId


def progress() -> Progress:
    return Progress({"message", "link"}, {"link"})


def view(recent: RecentRows | None = None) -> View:
    return View(
        phase="2 conversations",
        seconds=12.34,
        appended=18_000,
        appended_a_second=1_499.6,
        projected=1_234,
        hinted=Lag(0, 0.0),
        unhinted=Lag(12, 1.26),
        latency_p50=0.0123,
        latency_p99=1.5,
        replicas=[ReplicaView("replica-1", 4711, 12.3, 1_000), ReplicaView("replica-3", 4712, 0.4, None)],
        kills=1,
        last_kill="replica-2 (pid 4700) was killed 0 s ago",
        recent=recent or RecentRows(),
    )


def verdict(comparison: Comparison, behind: dict[str, EventId] | None = None) -> Verdict:
    return Verdict(
        appended=1_000,
        projected=100,
        seconds=2.0,
        checkpoints=Latencies([0.01, 0.02]),
        resolution=Latencies([0.002]),
        unhinted=Latencies([]),
        kills=3,
        durable=True,
        behind=behind or {},
        comparison=comparison,
    )


def printed(verdict: Verdict) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    print_verdict(console, verdict)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_an_event_is_projected_once_the_position_has_reached_it() -> None:
    counted = progress()
    for event_id in ("1000-9", "1000-10", "2000-0"):
        counted.note_appended("a", event_id, "message", hinted=True)
    counted.note_positions({"a": "1000-9"}, now=3.0)
    assert (counted.projected, counted.waiting) == (1, 2), "ids are compared as numbers"
    counted.note_positions({"a": "1000-10", "unknown": "9-9"}, now=3.0)
    assert (counted.projected, counted.waiting) == (2, 1)
    assert not counted.nothing_waits.is_set()
    counted.note_positions({"a": "2000-0"}, now=3.0)
    assert counted.nothing_waits.is_set()


def test_types_that_are_not_projected_are_never_awaited() -> None:
    counted = progress()
    counted.note_appended("a", "1000-0", "delta", hinted=True)
    assert (counted.appended, counted.waiting, counted.behind()) == (1, 0, {})


def test_latency_is_measured_from_the_time_in_the_event_id() -> None:
    counted = progress()
    counted.note_appended("a", "1000-0", "message", hinted=True)
    counted.note_appended("a", "2000-0", "link", hinted=True)
    counted.note_appended("b", "1000-0", "link", hinted=False)
    assert counted.urgent() == ["a"], "only hinted checkpoint events are waited for without a pause"
    counted.note_positions({"a": "2000-0", "b": "1000-0"}, now=2.25)
    assert (counted.hinted_checkpoints, counted.unhinted) == ([0.25], [1.25])
    assert counted.urgent() == []


def test_lag_is_that_of_the_oldest_awaited_event() -> None:
    counted = progress()
    counted.note_appended("a", "1000-0", "message", hinted=True)
    counted.note_appended("b", "4000-0", "message", hinted=True)
    counted.note_positions({"a": None}, now=5.0)
    assert counted.lag(5.0, hinted=True) == Lag(2, 4.0)
    assert counted.lag(5.0, hinted=False) == Lag(0, 0.0)
    assert counted.behind() == {"a": EventId(1000, 0), "b": EventId(4000, 0)}


@pytest.mark.parametrize(("percent", "expected"), [(50, 2.0), (75, 3.0), (99, 4.0)])
def test_percentiles_are_values_that_were_measured(percent: float, expected: float) -> None:
    assert Latencies([4.0, 1.0, 3.0, 2.0]).percentile(percent) == expected


def test_a_percentile_of_nothing_is_none() -> None:
    assert Latencies([]).percentile(50) is None


def test_a_replica_inherits_the_environment_but_for_other_servers() -> None:
    environ = {
        "PATH": "/bin",
        "REDIS_URL": "redis://theirs",
        "DATABASE_URL": "postgresql://theirs",
        "REDIS_URL_FILE": "/run/secrets/theirs",
        "DATABASE_URL_FILE": "/run/secrets/theirs",
        "WORKER_KEY_PREFIX": "theirs:",
        "PGSSLMODE": "require",
    }
    environment = replica_environment(environ, {"redis_url": "redis://ours", "sweep_seconds": 2.0})
    assert environment.pop("PYTHONPATH")
    assert environment == {"PATH": "/bin", "REDIS_URL": "redis://ours", "WORKER_SWEEP_SECONDS": "2.0"}


def test_a_line_tells_everything() -> None:
    assert plain_line(view()) == (
        " 12.3 s: 18,000 events in (1,500 a second), 1,234 projected, lag with hints none, "
        "without hints 12, oldest 1.3 s; 2 replicas (pid 4711 4712), 1 killed so far"
    )


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_frame_shows_as_many_columns_and_rows_as_have_room(width: int) -> None:
    row = ("chat-1", "A name that is rather long for a column", None, True, 1_001, "m" * 18)
    recent = RecentRows(["stream_id", "name", "record_type", "is_saved", "wdk_id", "model_id"], [row] * 50)
    console = Console(file=io.StringIO(), width=width, height=24)
    console.print(frame(view(recent), width, 24))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert len(text.splitlines()) <= 24
    assert text.count("chat-1") > 5
    assert ("m" * 18 in text) == (width > 60)


def test_the_verdict_says_that_all_is_right() -> None:
    right = verdict(Comparison(40, (), (), ()))
    assert right.all_right
    lines = printed(right)
    assert lines[-1] == "All 40 rows are right."
    assert any(line.split() == ["events", "a", "second", "500"] for line in lines)


def test_the_verdict_says_what_is_wrong() -> None:
    wrong = verdict(Comparison(40, (Difference("a", "name", "x", "[y]"),), ("b",), ("c",)))
    assert not wrong.all_right
    lines = printed(wrong)
    assert lines[-1] == "3 of 40 rows are wrong."
    assert "b: the row is missing" in lines
    assert any(line.split() == ["a", "name", "x", "[y]"] for line in lines)


def test_no_rows_prove_nothing() -> None:
    empty = verdict(Comparison(0, (), (), ()))
    assert not empty.all_right
    assert printed(empty)[-1] == "There is no row, so nothing is proved."


def test_right_rows_do_not_help_if_not_all_was_projected() -> None:
    unfinished = verdict(Comparison(40, (), (), ()), behind={"a": EventId(5, 0)})
    assert not unfinished.all_right
    lines = printed(unfinished)
    assert lines[-1] == "Not finished: 1 conversation not projected to the end. All 40 rows are right."
    assert "a: not projected up to 5-0" in lines
