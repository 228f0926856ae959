"""`check`: what is wrong, or will be, with the servers and settings that a worker is to run with.

A `Check` looks at one thing and tells what it found; each kind of finding has a name that stays. Nothing is
written that stays, and nothing is read whose size the deployment decides. `all_checks` runs them.
"""

from worker.check.all_checks import CHECKS, KINDS, Report, run_checks
from worker.check.finding import Check, Deployment, Finding, Kind, Severity

__all__ = [
    "CHECKS",
    "KINDS",
    "Check",
    "Deployment",
    "Finding",
    "Kind",
    "Report",
    "Severity",
    "run_checks",
]
