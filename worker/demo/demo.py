"""`projection-worker demo`: simulate, project, kill, and see whether every row is right."""

from __future__ import annotations

import random
import secrets

from rich.console import Console

from worker.app import connect, make_log
from worker.comparison import compare_table
from worker.demo.interrupts import ended_by_signals, run_interruptibly
from worker.demo.options import DemoOptions
from worker.demo.producers import make_chats
from worker.demo.progress import Latencies
from worker.demo.replicas import ReplicaDiedError, replica_processes
from worker.demo.screen import counted, say
from worker.demo.stage import Stage
from worker.demo.surroundings import Surroundings, surroundings
from worker.demo.verdict import Verdict, print_verdict
from worker.errors import DeclarationError
from worker.loading import load_attribute, load_projections
from worker.projection import Projection

INTERRUPTED = 130  # as shells report what Ctrl-C has ended


def run_demo(options: DemoOptions) -> int:
    """Run the demo to its end. The exit code: 0 if every row is right, 1 if not, 130 if it was interrupted.

    Whatever ends it, no process of it is left behind. Raises what `embedded_servers` raises.
    """
    console = Console(highlight=False)
    say(console, f"Starting Redis, PostgreSQL and {counted(options.replicas, 'replica')} ...")
    try:
        with ended_by_signals(), surroundings(options.data_dir) as around:
            return run_interruptibly(_demonstrate(options, around, console))
    except KeyboardInterrupt:
        say(console, "Interrupted. Replicas and servers are stopped.")
        return INTERRUPTED
    except ReplicaDiedError as error:
        say(Console(stderr=True), str(error))
        return 1


async def _demonstrate(options: DemoOptions, around: Surroundings, console: Console) -> int:
    settings = around.settings
    projection = _only_projection(settings.projections)
    simulate = load_attribute(settings.projections, "simulate_conversation")
    # Another name in every run: a kept folder holds the conversations of earlier runs.
    chats = make_chats(simulate, options.chats, options.seed, run=secrets.token_hex(2))
    rng = random.Random(options.seed)
    async with (
        connect(settings) as servers,
        replica_processes(options.replicas, around.environment, around.folder, rng) as processes,
    ):
        stage = Stage(settings, servers, projection, processes, console)
        await stage.perform(chats, options)
        await processes.stop()
        say(console, "Folding all logs again in memory and comparing ...")
        logs = make_log(settings, servers.redis, projection)
        verdict = Verdict(
            appended=stage.progress.appended,
            projected=stage.progress.projected,
            seconds=stage.seconds,
            checkpoints=Latencies(stage.progress.hinted_checkpoints),
            resolution=Latencies(stage.observer.pauses),
            unhinted=Latencies(stage.progress.unhinted),
            kills=len(processes.kills) if options.kill else None,
            durable=around.durable,
            behind=stage.progress.behind(),
            comparison=await compare_table(logs, servers.engine, projection),
        )
    print_verdict(console, verdict)
    return 0 if verdict.all_right else 1


def _only_projection(module_name: str) -> Projection:
    match load_projections(module_name):
        case [projection]:
            return projection
        case several:
            raise DeclarationError(f"The demo shows one projection, but {module_name} has {len(several)}.")
