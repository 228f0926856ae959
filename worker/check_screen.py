"""How `check` looks: a paragraph for each finding, read from top to bottom, or JSON.

Severity is a word before it is a colour, and nothing stands side by side: it is read aloud as it is written.
"""

from __future__ import annotations

from typing import Any

import typer

from worker.check import Finding, Report, Severity
from worker.terminal import counted, is_terminal, print_json, printable

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}


def print_report(report: Report, *, as_json: bool) -> None:
    """Print what was found, the worst first, and a sentence on all of it last."""
    if as_json:
        print_json(_as_dict(report))
        return
    for finding in report.findings:
        severity = finding.kind.severity
        word = typer.style(severity.value, fg=_COLOURS[severity], bold=True) if is_terminal() else severity
        typer.echo(f"{word}: {printable(finding.what)} [{finding.kind.name}]")
        typer.echo(f"    Why: {finding.kind.why}")
        typer.echo(f"    Do: {printable(finding.remedy)}")
    for name in report.fine:
        typer.echo(f"ok: {name}")
    for name in report.not_checked:
        typer.echo(f"not checked: {name}")
    typer.echo(_sentence(report))


def _as_dict(report: Report) -> dict[str, Any]:
    return {
        "errors": report.count(Severity.ERROR),
        "warnings": report.count(Severity.WARNING),
        "findings": [_finding_as_dict(finding) for finding in report.findings],
        "ok": report.fine,
        "not_checked": report.not_checked,
    }


def _finding_as_dict(finding: Finding) -> dict[str, str]:
    return {
        "severity": finding.kind.severity.value,
        "finding": finding.kind.name,
        "what": finding.what,
        "why": finding.kind.why,
        "remedy": finding.remedy,
    }


def _sentence(report: Report) -> str:
    errors, warnings = report.count(Severity.ERROR), report.count(Severity.WARNING)
    fine = counted(len(report.fine), "check")
    return f"{counted(errors, 'error')}, {counted(warnings, 'warning')}; {fine} found nothing."
