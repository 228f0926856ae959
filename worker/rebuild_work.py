"""What the command `rebuild` does once its arguments are parsed: connect, rebuild, show, print."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial

from worker.campaign import Campaign, CampaignProgress, Campaigns, RefusedStream
from worker.campaign_work import CampaignWorker, enter
from worker.judgement import Refusal
from worker.progress import Shown, Step, Stopwatch, shown
from worker.projection import Projection
from worker.rebuild import Rebuilt
from worker.rebuild_reach import Reach, RebuildOptions, known_and_unknown, reach
from worker.rebuild_screen import Report, print_report
from worker.scope import find_streams
from worker.settings import Settings
from worker.waiting import unless, wait_for

_AT_ONCE = 50
_LOOK_SECONDS = 0.5
_GO_ON = "Not finished; start the same command again to go on where it stopped."
_GIVEN_UP = "This rebuild was given up: another one was started with --restart, or by a newer version."


async def rebuild(
    settings: Settings, projection: Projection, options: RebuildOptions, stop: asyncio.Event
) -> bool:
    """Rebuild until all is done or ``stop`` is set, and print; whether every stream was rebuilt."""
    async with reach(settings, projection, options, stop) as reached:
        report = await (_rebuild_named(reached) if options.stream_ids else _join_campaign(reached))
    if report is None:
        return False
    print_report(report, as_json=options.as_json)
    return report.fine


async def _rebuild_named(reached: Reach) -> Report:
    """Rebuild streams that an operator named: without a campaign, since to do it again costs little."""
    options = reached.options
    streams, unknown = await known_and_unknown(reached, options.stream_ids)
    watch, rebuilt = Stopwatch(len(streams)), list[Rebuilt]()
    with shown(reached.projection.name, as_json=options.as_json) as screen:
        async with aclosing(reached.courtesy.parts(streams, _AT_ONCE)) as parts:
            async for part in parts:
                action = partial(
                    reached.rebuilder.rebuild, part, accept_loss=options.scope.accept_loss, deliberate=True
                )
                rebuilt += await reached.persevere("rebuilding", action) or ()
                screen.show(watch.step(len(rebuilt)))
    refused = [RefusedStream(of.stream_id, of.refusal, of.detail) for of in rebuilt if of.refusal]
    finished = len(rebuilt) == len(streams)
    return Report(
        projection=reached.projection.name,
        version=reached.projection.version,
        scope="named streams",
        streams=len(streams),
        done=len(rebuilt),
        events=sum(of.events for of in rebuilt),
        seconds=watch.seconds,
        refusals=dict(Counter(of.refusal for of in refused)),
        told=refused,
        unknown=unknown,
        why="" if finished else _GO_ON,
        results=rebuilt,
    )


async def _join_campaign(reached: Reach) -> Report | None:
    """Begin a campaign, or go on with the one under way, until it is over or stopped.

    None if it was stopped before it had begun.
    """
    options, version = reached.options, reached.projection.version
    campaigns = Campaigns(reached.servers.engine, reached.projection.name, reached.worker)

    async def streams() -> Sequence[str]:
        return await find_streams(options.scope, reached.logs, reached.store, reached.projection)

    entering = enter(campaigns, version, options.scope, streams, restart=options.restart)
    campaign = await unless(reached.stop, entering)
    if campaign is None:
        return None
    worker = CampaignWorker(
        campaigns,
        campaign,
        reached.rebuilder,
        reached.store,
        reached.courtesy,
        reached.persevere,
        reached.stop,
    )
    with shown(reached.projection.name, as_json=options.as_json) as screen:
        await _work_and_show(reached, campaigns, campaign, worker, screen)
    return await _report(reached, campaigns, campaign)


async def _work_and_show(
    reached: Reach, campaigns: Campaigns, campaign: Campaign, worker: CampaignWorker, screen: Shown
) -> None:
    over = asyncio.Event()

    async def show() -> None:
        while not over.is_set():
            progress = await reached.persevere(
                "looking how far it is", partial(campaigns.progress, campaign.id)
            )
            if progress is not None:
                screen.show(_step(progress))
            await wait_for(over, _LOOK_SECONDS)

    showing = asyncio.create_task(show())
    try:
        await worker.run()
    finally:
        over.set()
        await showing


def _step(progress: CampaignProgress) -> Step:
    return Step(
        progress.streams,
        progress.done,
        progress.refused,
        progress.events,
        progress.streams_per_second,
        progress.seconds_left,
        len(progress.workers),
    )


async def _report(reached: Reach, campaigns: Campaigns, campaign: Campaign) -> Report:
    """What all processes together have made of it, also where others have finished it."""
    progress = await reached.persevere("looking how far it is", partial(campaigns.progress, campaign.id))
    refusals: dict[Refusal, int] = {}
    told: list[RefusedStream] = []
    if progress is not None:
        refusals, told = await campaigns.refusals(campaign.id, reached.options.limit)
    given_up = progress is None or progress.given_up
    return Report(
        projection=reached.projection.name,
        version=campaign.version,
        scope=str(campaign.scope),
        streams=campaign.streams,
        done=progress.done if progress else 0,
        events=progress.events if progress else 0,
        seconds=progress.seconds if progress else 0.0,
        refusals=refusals,
        told=told,
        why=_GIVEN_UP if given_up else "" if progress and progress.finished else _GO_ON,
    )
