"""A backlog that a worker finds when it starts: whole chats, and events of projected types alone."""

from __future__ import annotations

from tests.benchmarks.bench import WORKER, WORKER_COMMAND, Bench, Scenario, work_off
from tests.benchmarks.measurement import Figure, Run
from tests.benchmarks.workload import Workload


async def measure(bench: Bench) -> list[Figure]:
    """Events a second of the worker and of all baselines, on both backlogs."""
    figures: list[Figure] = []
    workloads = {
        "chat backlog": Workload(bench.scaled(1_000), 200),
        "projected only": Workload(bench.scaled(1_000), 100, only_projected=True),
    }
    for name, workload in workloads.items():

        async def by_worker(workload: Workload = workload) -> Run:
            async with bench.world() as world:
                await world.append(workload)
                return (await work_off(world, [WORKER_COMMAND])).rate(workload.events)

        for subject, runs in (await bench.in_turns(name, {WORKER: by_worker})).items():
            figures.append(Figure(name, subject, "events/s", runs))
    return figures


SCENARIO = Scenario("backlog", measure)
