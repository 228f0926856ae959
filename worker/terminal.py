"""The terminal: what commands print on it, and Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import typer
from rich.console import Console

T = TypeVar("T")


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work; Ctrl-C ends it quietly."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def run_until_stopped(work: Callable[[asyncio.Event], Coroutine[Any, Any, T]]) -> T | None:
    """Run a command's work, which ends soon once the event that it is given is set.

    The first SIGINT or SIGTERM sets it; a second one cancels, and gives None.
    """

    async def run() -> T | None:
        stop = asyncio.Event()
        working = asyncio.create_task(work(stop))

        def on_signal() -> None:
            if stop.is_set():
                working.cancel()
            stop.set()

        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, on_signal)
        await asyncio.wait([working])
        return None if working.cancelled() else working.result()

    return asyncio.run(run())


def print_json(value: Any) -> None:
    """Print a value as JSON, in ASCII where standard output speaks no UTF-8."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=not _speaks_utf8()))


def print_json_line(value: Any) -> None:
    """Print a value as JSON on one line."""
    typer.echo(json.dumps(value, ensure_ascii=not _speaks_utf8()))


def is_terminal() -> bool:
    """Whether standard output is a terminal, or is to be taken for one."""
    return Console().is_terminal


def _speaks_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def printable(text: str) -> str:
    """Text on one line that can be printed: control characters, and what has no letters here, escaped.

    Anybody may write anything into a log, and a terminal would obey it.
    """
    encoding = sys.stdout.encoding or "ascii"
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def counted(number: int, thing: str) -> str:
    """A number of things."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def print_unknown(stream_ids: Sequence[str]) -> None:
    """Tell of streams that were named and do not exist, on standard error."""
    for stream_id in stream_ids:
        sentence = f"Stream {stream_id!r} has neither a log nor a row; see whether it is spelled rightly."
        typer.echo(printable(sentence), err=True)
