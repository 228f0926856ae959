"""The README tells of everything there is, and of nothing else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.documented import (
    README,
    WORKER,
    all_events,
    cells_of_table,
    names_of_commands,
    rows_of_table,
    without_arguments,
)
from worker.check import KINDS
from worker.cli import app
from worker.log_levels import PARTS
from worker.metrics import METRICS
from worker.settings import URL_FILES, Settings, variable


def test_every_setting_is_documented_with_its_default() -> None:
    documented = rows_of_table("variable")
    assert documented.keys() == {variable(name) for name in Settings.model_fields} | URL_FILES.keys()
    for name, field in Settings.model_fields.items():
        if name not in ("redis_url", "database_url", "consumer_name"):
            assert documented[variable(name)] == str(field.default), name


def test_every_metric_is_documented_as_it_describes_itself() -> None:
    documented = cells_of_table("metric")
    assert documented == [
        [f"`{metric.full_name}{f'{{{metric.label}}}' if metric.label else ''}`", metric.kind, metric.help]
        for metric in METRICS
    ]


def test_every_log_event_is_documented() -> None:
    documented = [name for cell in rows_of_table("event") for name in re.findall(r"[a-z_]+", cell)]
    logged = all_events()
    assert set(documented) == logged
    assert len(documented) == len(logged)


def test_every_part_that_logs_is_documented_and_no_other() -> None:
    calls = [
        call
        for path in WORKER.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "structlog.get_logger"
    ]
    parts = {ast.literal_eval(call.args[0]) for call in calls}
    assert rows_of_table("part").keys() == parts == set(PARTS)


def test_every_command_is_documented() -> None:
    documented = {without_arguments(command) for command in rows_of_table("command")}
    grouped = {
        f"{group.typer_instance.info.name} {name}"
        for group in app.registered_groups
        if group.typer_instance
        for name in names_of_commands(group.typer_instance)
    }
    assert documented == names_of_commands(app) | grouped


def test_every_finding_of_check_is_documented_with_its_severity() -> None:
    assert rows_of_table("finding") == {kind.name: kind.severity.value for kind in KINDS}


def test_the_set_up_commands_are_one_line_each() -> None:
    assert "\npip install -e '.[embedded]' && projection-worker demo\n" in README
    assert "\npip install -e '.[dev]' && pytest\n" in README


def test_every_fault_has_a_test_that_causes_it() -> None:
    tests = Path(__file__).parents[1]
    named = re.findall(
        r"`((?:unit|integration|acceptance)/\w+\.py)::(\w+)`", (tests / "README.md").read_text()
    )
    assert len(named) > 30
    for file, test in named:
        assert re.search(rf"def {test}\b", (tests / file).read_text()), f"{file}::{test}"


def test_examples_in_python_compile() -> None:
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
