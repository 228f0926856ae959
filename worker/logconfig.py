"""How log lines look: structlog, for people on a terminal and as JSON elsewhere."""

from __future__ import annotations

import sys
from typing import Any, Literal, TextIO

import structlog

from worker.log_levels import PARTS, LogLevels


class _Output(structlog.PrintLogger):
    """Where lines go, and which part of the worker writes them: what its module gave to `get_logger`."""

    def __init__(self, file: TextIO, part: str) -> None:
        super().__init__(file)
        self.part = part


def configure_logging(levels: LogLevels, log_format: Literal["auto", "console", "json"]) -> None:
    """Send what these levels show to standard error. Call it once, when a command starts."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        # The usual traceback shows local variables, and so payloads.
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if console
        else structlog.processors.JSONRenderer()
    )
    # A console renders tracebacks itself; for JSON they become one string.
    tracebacks: list[structlog.typing.Processor] = [] if console else [structlog.processors.format_exc_info]

    def of_part(
        output: _Output, _method: str, line: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        if not levels.shows(line["level"], output.part):
            raise structlog.DropEvent
        if output.part in PARTS:
            line["part"] = output.part
        return line

    def output(*names: Any) -> _Output:
        return _Output(sys.stderr, str(names[0]) if names else "")

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            of_part,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *tracebacks,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(levels.lowest),
        logger_factory=output,
        cache_logger_on_first_use=False,
    )
