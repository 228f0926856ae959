"""How `status` looks: tables on a terminal, plain lines in a pipe, or JSON."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from worker.app import Servers, connect
from worker.campaign import CampaignProgress
from worker.loading import load_projections
from worker.migrate import check_schema
from worker.projection import Projection
from worker.settings import Settings
from worker.status import ProjectionStatus, as_dict, events_per_second, take_status
from worker.terminal import counted


async def show_status(settings: Settings, *, as_json: bool) -> bool:
    """Print one look; whether every projection has a live replica, and every replica is ready."""
    async with connect(settings) as servers:
        await check_schema(servers.engine)
        statuses = await _take(settings, servers)
    if as_json:
        typer.echo(json.dumps([as_dict(status) for status in statuses], indent=2))
    else:
        _console().print(_view(statuses, None))
    return all(status.fine for status in statuses)


async def watch_status(settings: Settings, every: float, *, as_json: bool) -> bool:
    """Print a look every so many seconds until cancelled; JSON is one line a look."""
    async with connect(settings) as servers:
        await check_schema(servers.engine)
        before: Sequence[ProjectionStatus] | None = None
        with Live(console=_console(), auto_refresh=False, transient=False) as live:
            while True:
                statuses = await _take(settings, servers)
                if as_json:
                    live.console.file.write(
                        json.dumps([as_dict(s, _rate(s, before)) for s in statuses]) + "\n"
                    )
                    live.console.file.flush()
                elif live.console.is_terminal:
                    live.update(_view(statuses, before), refresh=True)
                else:
                    live.console.print(_view(statuses, before))
                before = statuses
                await asyncio.sleep(every)


async def _take(settings: Settings, servers: Servers) -> list[ProjectionStatus]:
    projections: list[Projection] = load_projections(settings.projections)
    return [await take_status(servers.redis, servers.engine, settings.keys, p) for p in projections]


def _rate(status: ProjectionStatus, before: Sequence[ProjectionStatus] | None) -> float | None:
    """Events applied a second since the look before."""
    earlier = next((other for other in before or () if other.name == status.name), None)
    if earlier is None:
        return None
    return events_per_second(earlier.replicas, status.replicas, status.taken_at - earlier.taken_at)


def _console() -> Console:
    return Console(soft_wrap=False)


def _view(statuses: Sequence[ProjectionStatus], before: Sequence[ProjectionStatus] | None) -> Group:
    return Group(*(part for status in statuses for part in _parts(status, before)))


def _parts(status: ProjectionStatus, before: Sequence[ProjectionStatus] | None) -> Iterator[RenderableType]:
    yield _summary(status, before)
    yield _replicas(status)
    for replica in status.replicas:
        for trouble in replica.troubles:
            yield Text(f"{replica.consumer} is not ready: {trouble}", style="red")


def _summary(status: ProjectionStatus, before: Sequence[ProjectionStatus] | None) -> Table:
    table = Table(title=f"{status.name}, version {status.version}", title_justify="left", show_header=False)
    rate = _rate(status, before)
    sweep = status.sweep
    lag = "unknown: no sweep lately" if status.lag_seconds is None else f"{status.lag_seconds:.1f} s"
    rows = [
        ("rows", status.unreadable or f"{status.rows:,}"),
        ("rows of other versions", _versions(status)),
        ("rebuild", _rebuild(status.rebuild)),
        ("hints waiting", "no group yet" if status.feed.waiting is None else f"{status.feed.waiting:,}"),
        ("hints pending", f"{status.feed.pending:,}"),
        ("lag at the last sweep", lag),
        (
            "streams behind at the last sweep",
            f"{sweep.behind:,} of {sweep.streams:,}" if sweep else "unknown",
        ),
        ("rows without a log", f"{sweep.vanished:,}" if sweep else "unknown"),
        ("keys that cannot be projected", f"{sweep.unusable_keys:,}" if sweep else "unknown"),
        ("blocked streams", _blocked(status)),
        ("diverged streams", f"{status.diverged:,}"),
        ("events passed over, skipped", f"{status.letters.passed:,}, {status.letters.skipped:,}"),
        ("rows verified, drifted", f"{status.rows_verified:,}, {status.rows_drifted:,}"),
        ("events applied", f"{status.events_applied:,}" + (f" ({rate:,.1f}/s)" if rate is not None else "")),
    ]
    for name, value in rows:
        table.add_row(name, value)
    return table


def _versions(status: ProjectionStatus) -> str:
    others = {v: rows for v, rows in status.rows_by_version.items() if v != status.version}
    by_version = ", ".join(f"{rows:,} of version {version}" for version, rows in others.items())
    return by_version or "0"


def _rebuild(progress: CampaignProgress | None) -> str:
    if progress is None:
        return "none"
    workers = ", ".join(progress.workers) or "nobody; start `rebuild` again to go on"
    left = f", {progress.seconds_left:,.0f} s left" if progress.seconds_left is not None else ""
    return f"{progress.done:,} of {progress.streams:,} streams{left}; at work: {workers}"


def _blocked(status: ProjectionStatus) -> str:
    letters = status.letters
    if letters.blocked_since is None:
        return f"{letters.blocked:,}"
    return f"{letters.blocked:,}, the first for {max(0.0, status.taken_at - letters.blocked_since):,.0f} s"


def _replicas(status: ProjectionStatus) -> Table:
    table = Table(title=counted(len(status.replicas), "replica"), title_justify="left")
    for heading in (
        "replica",
        "up",
        "partitions",
        "events",
        "rows written",
        "lost writes",
        "in hand",
    ):
        table.add_column(heading, justify="left" if heading == "replica" else "right")
    for replica in status.replicas:
        table.add_row(
            replica.consumer,
            f"{time.time() - replica.started_at:,.0f} s",
            _ranges(replica.partitions),
            f"{replica.events_applied:,}",
            f"{replica.rows_written:,}",
            f"{replica.comparisons_lost:,}",
            f"{replica.pending_streams:,}",
        )
    return table


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in few words: 0-2, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
