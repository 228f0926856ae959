"""The command `verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.arguments import storable
from worker.settings import load_settings
from worker.terminal import run_to_end
from worker.verify_work import Selection, verify_projections


def _percentage(text: str) -> float:
    """A share from 0 to 1, of text such as 1%."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = 0.0
    if not text.endswith("%") or not 0 < share <= 1:
        raise typer.BadParameter(f"{text!r} is no percentage; write it as 1%, with up to 100%.")
    return share


def verify(
    sample: Annotated[
        float | None,
        typer.Option(parser=_percentage, metavar="SHARE", help="Only so many rows, by chance: 1%."),
    ] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option("--stream", parser=storable, metavar="STREAM", help="Only this stream; repeatable."),
    ] = None,
    projection: Annotated[
        str | None, typer.Option(parser=storable, metavar="NAME", help="Only this projection.")
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Rebuild the streams whose rows are wrong.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Tell of at most so many streams.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prove that rows are what their logs say: fold the logs again in memory, and compare.

    Workers and producers may go on meanwhile. Exits with 1 if anything is wrong: a value, a missing row, or
    a row that does not belong to its log. Rows that cannot be compared, such as those of trimmed logs, are
    told.

    Example: `projection-worker verify --sample 1%`
    """
    if sample is not None and stream:
        raise typer.BadParameter("Give either --sample or --stream.")
    settings = load_settings("redis_url", "database_url")
    selection = Selection(projection, stream, sample or 1.0, limit)
    fine = run_to_end(verify_projections(settings, selection, fix=fix, as_json=as_json))
    raise typer.Exit(0 if fine else 1)
