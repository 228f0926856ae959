"""The command ``python -m tests.benchmarks``: measures, prints tables, and says whether all targets hold."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path

from rich.console import Console

from tests.benchmarks.bench import Bench
from tests.benchmarks.measurement import Figure, Verdict
from tests.benchmarks.plot import save_plot
from tests.benchmarks.report import as_json, figures_table, targets_table
from tests.benchmarks.scenarios import SCENARIOS
from tests.servers import running_servers
from worker.testing.servers import Databases

RUNS = 3


async def run(options: argparse.Namespace) -> bool:
    """Measure what was asked for and show it; whether all targets hold that were measured."""
    console, progress = Console(width=140), Console(stderr=True, highlight=False)
    began = time.monotonic()

    def say(words: str) -> None:
        progress.print(f"{time.monotonic() - began:5.0f} s  {words}")

    figures: list[Figure] = []
    verdicts: list[Verdict] = []
    with running_servers() as servers:
        databases = Databases(servers.database_url)
        bench = Bench(servers, databases, options.runs or (1 if options.quick else RUNS), options.quick, say)
        console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {servers}")
        try:
            for scenario in SCENARIOS:
                if not options.only or scenario.name in options.only:
                    figures += await scenario.measure(bench)
        finally:
            databases.close()
    for scenario in SCENARIOS:
        verdicts += filter(None, (target.verdict(figures) for target in scenario.targets))
    console.print(figures_table(figures))
    if verdicts:
        console.print(targets_table(verdicts, quick=options.quick))
    if options.json:
        found = as_json(servers, figures, verdicts, quick=options.quick)
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.plot:
        save_plot(figures, options.plot)
    return all(verdict.holds for verdict in verdicts)


def main() -> int:
    """Measure; 1 if a target does not hold. A quick run is too short to tell, and gives 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, once")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--runs", type=int, help=f"how often each figure is measured (default {RUNS})")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--plot", type=Path, help="draw backlogs and latencies into this PNG file")
    options = parser.parse_args()
    holds = asyncio.run(run(options))
    return 0 if holds or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())
