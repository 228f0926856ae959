"""What the command `verify` does once its arguments are parsed: connect, verify, rebuild, print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.app import Servers, connect, make_log
from worker.arguments import chosen_projections
from worker.finding import Obstacle
from worker.log import Log
from worker.log_scan import LogScan
from worker.migrate import check_schema
from worker.progress import Count, shown
from worker.projection import Projection
from worker.rebuild import Rebuilt, make_rebuilder
from worker.settings import Settings
from worker.store import Store
from worker.survey import Survey, Surveyor
from worker.verify import Verifier
from worker.verify_screen import Verified, print_verified

_REBUILT_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Selection:
    """What to verify: None for all projections, and for all streams, of which a share is taken."""

    projection: str | None
    stream_ids: Sequence[str] | None
    share: float
    limit: int


async def verify_projections(settings: Settings, selection: Selection, *, fix: bool, as_json: bool) -> bool:
    """Verify and print; whether all is well in the end."""
    projections = chosen_projections(settings, selection.projection)
    async with connect(settings) as servers:
        await check_schema(servers.engine, settings.projections, projections)
        verified = [await _verify(settings, servers, p, selection, fix=fix) for p in projections]
    print_verified(verified, as_json=as_json)
    return all(of.fine for of in verified)


async def _verify(
    settings: Settings, servers: Servers, projection: Projection, selection: Selection, *, fix: bool
) -> Verified:
    logs, store = make_log(settings, servers.redis, projection), Store(servers.engine, projection)
    scan = LogScan(logs.redis, logs.keys, logs.streams)
    verifier = Verifier(logs, servers.engine, projection, patience=settings.patience)
    survey = Survey(selection.limit)
    named = list(dict.fromkeys(selection.stream_ids or ()))
    total = len(named) or sum((await store.count_rows()).values())
    with shown(projection.name, things="rows", at_once=False) as screen:
        surveyor = Surveyor(verifier, scan, store, Count(screen, total).add)
        if named:
            await surveyor.survey_streams(named, survey)
        else:
            await surveyor.survey_table(selection.share, survey)
    in_vain = bool(named) and bool(survey.obstacles[Obstacle.NOTHING])
    verified = Verified(projection.name, survey, asked_in_vain=in_vain)
    if fix and survey.drifted:
        with shown(f"{projection.name}: rebuilding", things="rows", at_once=False) as screen:
            count = Count(screen, len(survey.drifted))
            verified.rebuilt = await _rebuild(servers, projection, logs, survey.drifted, count)
        verified.after = Survey(selection.limit)
        await Surveyor(verifier, scan, store).survey_streams(survey.drifted, verified.after)
    return verified


async def _rebuild(
    servers: Servers,
    projection: Projection,
    logs: Log,
    stream_ids: Sequence[str],
    count: Count,
) -> list[Rebuilt]:
    """Rebuild these streams as any other rebuild would: what a log has lost is not accepted."""
    rebuilder = make_rebuilder(projection, logs, servers.engine)
    rebuilt: list[Rebuilt] = []
    for at in range(0, len(stream_ids), _REBUILT_AT_ONCE):
        some = stream_ids[at : at + _REBUILT_AT_ONCE]
        rebuilt += await rebuilder.rebuild(some)
        count.add(len(some))
    return rebuilt
