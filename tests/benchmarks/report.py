"""What the benchmark shows: a table of figures, a table of targets, and both as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.table import Table

from tests.benchmarks.bench import WORKER
from tests.benchmarks.measurement import Figure, Verdict, number
from tests.benchmarks.meter import POSTGRESQL, REDIS
from tests.servers import RunningServers


def figures_table(figures: Sequence[Figure]) -> Table:
    """All figures; beside those in the unit of the worker's figure, how many times that the latter is.

    The last three columns say how much of a core each process took.
    """
    table = Table(
        title="Medians, with the range of all runs; how many cores were taken", title_justify="left"
    )
    for heading in ("", "by", "median", "range", "unit", "worker is", "cores: itself", REDIS, POSTGRESQL):
        table.add_column(heading, justify="left" if heading in ("", "by", "unit") else "right")
    for scenario, group in groupby(figures, key=lambda figure: figure.scenario):
        of_scenario = list(group)
        worker = next((figure for figure in of_scenario if figure.subject == WORKER), None)
        for at, figure in enumerate(of_scenario):
            table.add_row(
                scenario if at == 0 else "",
                f"{figure.subject} ({figure.note})" if figure.note else figure.subject,
                number(figure.median),
                f"{number(figure.least)} to {number(figure.most)}" if len(figure.runs) > 1 else "",
                figure.unit,
                times(worker, figure),
                *cores(figure),
                end_section=at == len(of_scenario) - 1,
            )
    return table


def cores(figure: Figure) -> list[str]:
    """How much of a core the subject itself, Redis and PostgreSQL took."""
    if not figure.cores:
        return []
    servers = {server: figure.cores.get(server, 0.0) for server in (REDIS, POSTGRESQL)}
    itself = sum(figure.cores.values()) - sum(servers.values())
    return [f"{taken:.2f}" for taken in (itself, *servers.values())]


def targets_table(verdicts: Sequence[Verdict], *, quick: bool = False) -> Table:
    """What was to be reached, and whether it was."""
    title = "Targets, for which a quick run is too short" if quick else "Targets"
    table = Table(title=title, title_justify="left")
    table.add_column("target")
    table.add_column("found", justify="right")
    table.add_column("")
    for verdict in verdicts:
        table.add_row(
            str(verdict.target),
            number(verdict.found),
            "holds" if verdict.holds else "[bold red]does not hold[/]",
        )
    return table


def times(worker: Figure | None, figure: Figure) -> str:
    """How many times a figure the worker's is."""
    if worker is None or figure is worker or figure.unit != worker.unit:
        return ""
    return f"{number(worker.median / figure.median)} x"


def as_json(
    servers: RunningServers, figures: Sequence[Figure], verdicts: Sequence[Verdict], *, quick: bool
) -> Mapping[str, Any]:
    """Everything that was found, and on what."""
    return {
        "quick": quick,
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "redis": servers.redis_version,
            "postgresql": servers.postgresql_version,
        },
        "figures": [figure.as_json() for figure in figures],
        "targets": [verdict.as_json() for verdict in verdicts],
    }
