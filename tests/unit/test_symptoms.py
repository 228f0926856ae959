"""The table of symptoms calls everything by a name that it has."""

from __future__ import annotations

import ast
import re
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
import typer

from tests.documented import README, WORKER, all_events, cells_of_table
from worker.check import KINDS
from worker.cli import app
from worker.health import Health
from worker.insight import Insight
from worker.metrics import METRICS
from worker.settings import URL_FILES, Settings, variable
from worker.site import make_routes

SECTION = README.split("\n### Symptoms\n", 1)[1].split("\n### ", 1)[0]
ROWS = cells_of_table("symptom")
IN_CODE = re.compile(r"`([^`]+)`")


def settings() -> set[str]:
    return {variable(name) for name in Settings.model_fields} | URL_FILES.keys()


def what_may_be_wrong() -> set[str]:
    """What a line of `/readyz` may begin with: what is done again until it works, and what is reported."""
    found = set()
    for path in WORKER.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or not call.args:
                continue
            if ast.unparse(call.func).endswith(("persevere", "health.report")):
                doing = call.args[0]
                found.add(constants.get(doing.id) if isinstance(doing, ast.Name) else ast.literal_eval(doing))
    return {doing for doing in found if isinstance(doing, str)}


def is_command(text: str) -> bool:
    """Whether these words begin with a command, and all options are options of it."""
    command: Any = typer.main.get_command(app)
    words = text.split()
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            return False
        command = command.commands[words.pop(0)]
    options = {o for parameter in command.params for o in (*parameter.opts, *parameter.secondary_opts)}
    return all(word in options for word in words if word.startswith("-"))


@cache
def names() -> set[str]:
    return {
        *(metric.full_name for metric in METRICS),
        *(kind.name for kind in KINDS),
        *all_events(),
        *settings(),
        *what_may_be_wrong(),
        *make_routes(Insight(Health(), ()), timedelta(seconds=1)),
        *("process_resident_memory_bytes", "projection-worker"),
        "trouble",  # what the event `retrying` says
    }


def is_known(name: str) -> bool:
    return name in names() or is_command(name)


def test_everything_that_is_named_exists() -> None:
    named = IN_CODE.findall(SECTION)
    assert len(named) > 100
    assert [name for name in named if not is_known(name)] == []


def test_every_row_names_something_to_look_at_or_to_do() -> None:
    assert len(ROWS) > 25
    for row in ROWS:
        assert len(row) == 3, row
        assert all(row), row
        assert IN_CODE.search(" ".join(row)), row


@pytest.mark.parametrize(
    "name",
    [
        "projection_worker_lags",
        "stream_diverges",
        "redis-evict",
        "WORKER_FEED",
        "status --slow",
        "verifying it",
    ],
)
def test_a_name_that_is_not_there_is_noticed(name: str) -> None:
    assert not is_known(name)
