"""The command ``python -m tests.chaos``."""

from __future__ import annotations

import asyncio
import secrets
import signal
from pathlib import Path
from typing import Annotated

import typer

from tests.chaos.faults import FAULTS
from tests.chaos.run import EVENTS_A_SECOND, play


def main(
    seconds: Annotated[float, typer.Option(envvar="CHAOS_SECONDS", help="For how long.")] = 60,
    seed: Annotated[
        int | None, typer.Option(envvar="CHAOS_SEED", help="What decides about it; any, if not given.")
    ] = None,
    rate: Annotated[float, typer.Option(envvar="CHAOS_RATE", help="Events a second.")] = EVENTS_A_SECOND,
    only: Annotated[
        list[str] | None, typer.Option(envvar="CHAOS_ONLY", help="A kind of fault, in place of all.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(envvar="CHAOS_REPORT", help="A file for the report, as JSON.")
    ] = None,
    logs: Annotated[
        Path | None, typer.Option(envvar="CHAOS_LOGS", help="A folder for the logs of the replicas.")
    ] = None,
) -> None:
    """Cause faults of all kinds while four replicas project, and say what came of it."""
    kinds = [fault for fault in FAULTS if not only or fault.name in only]
    if unknown := set(only or ()) - {fault.name for fault in kinds}:
        raise typer.BadParameter(
            f"There is no fault {', '.join(sorted(unknown))}; there are {', '.join(f.name for f in FAULTS)}."
        )
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
    # Whatever ends this ends the servers and replicas, too.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    chosen = secrets.randbelow(1_000_000) if seed is None else seed
    typer.echo(f"chaos for {seconds:g} s, seed {chosen} ...")
    found = asyncio.run(play(chosen, seconds, rate=rate, kinds=kinds, logs=logs))
    if report is not None:
        report.write_text(found.as_json())
    typer.echo(found)
    raise typer.Exit(1 if found.failures else 0)


typer.run(main)
