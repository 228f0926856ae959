"""The command `check`."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.app import connect
from worker.check import Deployment, Report, Severity, run_checks
from worker.check_screen import print_report
from worker.loading import load_projections
from worker.settings import Settings, load_settings
from worker.terminal import run_to_end


def check(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look whether servers, rights, tables and settings are as a worker needs them.

    Before the first start, and whenever something seems wrong. Nothing is changed, and workers may go on
    meanwhile. Each finding says why it matters and what to do. Exits with 1 if there is an error among them.

    Example: `projection-worker check`
    """
    report = run_to_end(_check(load_settings("redis_url", "database_url")))
    print_report(report, as_json=as_json)
    raise typer.Exit(1 if report.count(Severity.ERROR) else 0)


async def _check(settings: Settings) -> Report:
    projections = load_projections(settings.projections)
    async with connect(settings) as servers:
        return await run_checks(Deployment(settings, projections, servers.redis, servers.engine))
