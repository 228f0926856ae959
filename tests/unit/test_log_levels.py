"""A level for each part: what is shown, and what is said of levels and parts that there are not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from worker.errors import SettingsError
from worker.log_levels import PARTS, parse_log_levels
from worker.logconfig import configure_logging

EITHER = "write debug, info, warning or error, such as info,feed=debug"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def shown(capsys: pytest.CaptureFixture[str], levels: str) -> set[tuple[str, str]]:
    """Which of the lines of three parts, and of an author's module, are shown: part and level."""
    configure_logging(parse_log_levels(levels), "json")
    for name in ("feed", "sweep", "worker", "my_app.projections"):
        log = structlog.get_logger(name)
        for level in ("debug", "info", "warning", "error"):
            getattr(log, level)("something", name=name)
    lines = map(json.loads, capsys.readouterr().err.splitlines())
    return {(line["name"], line["level"]) for line in lines}


def from_level(level: str, *names: str) -> set[tuple[str, str]]:
    levels = ("debug", "info", "warning", "error")
    return {(name, shown) for name in names for shown in levels[levels.index(level) :]}


def test_one_level_is_for_all_parts(capsys: pytest.CaptureFixture[str]) -> None:
    everybody = ("feed", "sweep", "worker", "my_app.projections")
    assert shown(capsys, "warning") == from_level("warning", *everybody)
    assert shown(capsys, "debug") == from_level("debug", *everybody)


@pytest.mark.parametrize(
    "levels", ["info,feed=debug,sweep=error", "feed=debug,sweep=error", "sweep=error , feed=debug, info"]
)
def test_a_part_has_its_own_level_and_others_have_the_general_one(
    levels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(capsys, levels) == (
        from_level("debug", "feed")
        | from_level("error", "sweep")
        | from_level("info", "worker", "my_app.projections")
    )


def test_a_part_may_say_less_than_all_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "error,worker=info") == (
        from_level("error", "feed", "sweep", "my_app.projections") | from_level("info", "worker")
    )


def test_a_line_names_its_part_and_a_traceback_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(parse_log_levels("error"), "json")
    try:
        raise ValueError("no")
    except ValueError:
        structlog.get_logger("http").exception("failed")
        structlog.get_logger("elsewhere").exception("failed")
        structlog.get_logger().exception("failed")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line.get("part") for line in lines] == ["http", None, None]
    assert all("ValueError: no" in line["exception"] for line in lines)


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        ("loud", "'loud' is no level: write debug, info, warning or error, such as info,feed=debug"),
        ("", "'' is no level: write debug, info, warning or error, such as info,feed=debug"),
        (
            "info,feed=loud",
            "'loud' is no level: write debug, info, warning or error, such as info,feed=debug",
        ),
        ("info,fed=debug", f"'fed' is no part of the worker: there are {', '.join(PARTS)}"),
        ("=debug", f"'' is no part of the worker: there are {', '.join(PARTS)}"),
        ("info,debug", "it has two levels without a part: write one, such as info,feed=debug"),
        ("feed=info,feed=debug", "it has two levels for feed: write one"),
    ],
)
def test_a_wrong_level_or_part_is_told_with_those_that_there_are(levels: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_log_levels(levels)
    assert str(caught.value) == reason
