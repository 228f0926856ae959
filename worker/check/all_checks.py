"""All checks there are, and running them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from worker.check import (
    clocks,
    postgresql_server,
    postgresql_session,
    postgresql_tables,
    redis_cluster,
    redis_failover,
    redis_feed,
    redis_rights,
    redis_server,
    settings_fit,
)
from worker.check.finding import NOT_TOLD, Area, Check, Deployment, Finding, Kind, Severity
from worker.trouble import SERVER_ERRORS, Trouble, classify, sentence

_SECONDS_A_CHECK = 10.0

UNFINISHED = Kind(
    "check-unfinished",
    Severity.ERROR,
    "A server that cannot be asked in time cannot be worked with either.",
    "Mend what the message names, and check again.",
)
"""Of every check, where its server fails meanwhile."""

CHECKS: tuple[Check, ...] = (
    *settings_fit.CHECKS,
    *redis_cluster.CHECKS,
    *redis_server.CHECKS,
    *redis_failover.CHECKS,
    *redis_rights.CHECKS,
    *redis_feed.CHECKS,
    *postgresql_session.CHECKS,
    *postgresql_server.CHECKS,
    *postgresql_tables.CHECKS,
    *clocks.CHECKS,
)
"""In the order in which they are told, a gate before the others of its area."""

KINDS: tuple[Kind, ...] = (*(kind for check in CHECKS for kind in check.kinds), NOT_TOLD, UNFINISHED)
"""All kinds of findings."""


@dataclass(slots=True)
class Report:
    """What was found, the worst first; the names of checks that found nothing, and of those left out."""

    findings: list[Finding] = field(default_factory=list)
    fine: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)

    def count(self, severity: Severity) -> int:
        """How many findings are of this severity."""
        return sum(finding.kind.severity is severity for finding in self.findings)


async def run_checks(of: Deployment, checks: Sequence[Check] = CHECKS) -> Report:
    """Run checks, areas side by side and each area in order. None takes longer than ten seconds."""
    areas = [[check for check in checks if check.area is area] for area in Area]
    report = Report()
    for part in await asyncio.gather(*(_run_area(of, some) for some in areas)):
        report.findings += part.findings
        report.fine += part.fine
        report.not_checked += part.not_checked
    worst_first = list(Severity)
    report.findings.sort(key=lambda finding: worst_first.index(finding.kind.severity))
    return report


async def _run_area(of: Deployment, checks: Sequence[Check]) -> Report:
    report = Report()
    for at, check in enumerate(checks):
        findings = await _run(of, check)
        report.findings += findings
        if not findings:
            report.fine.append(check.name)
        if check.gate and any(finding.kind.severity is Severity.ERROR for finding in findings):
            report.not_checked += [other.name for other in checks[at + 1 :]]
            break
    return report


async def _run(of: Deployment, check: Check) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(_SECONDS_A_CHECK):
            return await check.look(of)
    except TimeoutError:
        return [UNFINISHED.found(f"{check.name}: could not be checked within {_SECONDS_A_CHECK:g} s.")]
    except SERVER_ERRORS as error:
        what = f"{check.name}: could not be checked: {sentence(error)}"
        missing_right = classify(error) is Trouble.MISCONFIGURED
        return [(NOT_TOLD if missing_right else UNFINISHED).found(what)]
