"""What the README says in its tables, and what the code has that it must tell of."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from typer import Typer

WORKER = Path(__file__).parents[1] / "worker"
LEVELS = ("debug", "info", "warning", "error", "exception", "critical", "log")
LOGGING = {"_report_first", *(f"log.{level}" for level in LEVELS)}
README = (WORKER.parent / "README.md").read_text(encoding="utf-8")


def rows_of_table(heading: str) -> dict[str, str]:
    """First cell to second, of the table whose first heading this is."""
    return {row[0].strip("`"): row[1].strip("`") for row in cells_of_table(heading)}


def cells_of_table(heading: str) -> list[list[str]]:
    table = README.split(f"\n| {heading} |", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def all_events() -> set[str]:
    """The names under which the worker logs."""
    return {event for path in WORKER.rglob("*.py") for event in events_logged(path)}


def events_logged(path: Path) -> Iterator[str]:
    """The names under which a module logs; one that is no literal is an argument, or an author's."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(call, ast.Call) or ast.unparse(call.func) not in LOGGING:
            continue
        names = [
            argument.value
            for argument in call.args
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        ]
        assert names or path.name == "fold_report.py", ast.unparse(call)
        yield from names[:1]


def without_arguments(command: str) -> str:
    """The words that name a command, without the program, options and what stands in capitals."""
    named = takewhile(lambda word: word.islower() and not word.startswith("-"), command.split()[1:])
    return " ".join(named)


def names_of_commands(group: Typer) -> set[str]:
    return {
        command.name or command.callback.__name__ for command in group.registered_commands if command.callback
    }
