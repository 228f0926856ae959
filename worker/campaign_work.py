"""One process's part in a campaign: takes chunks, rebuilds their streams, and says so, until none is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial

from worker.campaign import LEASE_SECONDS, Campaign, Campaigns, Chunk, RefusedStream
from worker.courtesy import Courtesy
from worker.errors import RebuildUnderWayError
from worker.rebuild import Rebuilder, Rebuilt
from worker.retry import Perseverance
from worker.scope import Scope
from worker.store import Store
from worker.waiting import wait_for, wait_for_any

_AT_ONCE = 2
"""While one chunk is folded, the servers can work for another."""
_LOOK_AGAIN_SECONDS = 0.2


async def enter(
    campaigns: Campaigns,
    version: int,
    scope: Scope,
    find_streams: Callable[[], Awaitable[Sequence[str]]],
    *,
    restart: bool,
) -> Campaign:
    """The campaign to work on: the one under way, if it is the same, or a new one.

    One of an older version is given up, and with ``restart`` any. Two that begin at once: both look for
    streams, one is the first, and the other joins it. Raises RebuildUnderWayError where another campaign is
    not finished.
    """
    under_way = await campaigns.unfinished()
    if under_way and (restart or under_way.version < version):
        await campaigns.give_up(under_way.id)
        under_way = None
    campaign = under_way or await campaigns.begin(version, scope, await find_streams())
    if (campaign.version, campaign.scope) != (version, scope):
        raise RebuildUnderWayError(
            f"Another rebuild is not finished: to version {campaign.version}, of {campaign.scope}. Start it "
            "again with the same options to go on with it, or give it up with --restart."
        )
    return campaign


class CampaignWorker:
    """Works on one campaign.

    Dying anywhere costs the chunks in hand, which others take when their time is up. Servers that are away
    are waited for. ``stop`` ends the work after what is being rebuilt at that moment.
    """

    def __init__(
        self,
        campaigns: Campaigns,
        campaign: Campaign,
        rebuilder: Rebuilder,
        store: Store,
        courtesy: Courtesy,
        persevere: Perseverance,
        stop: asyncio.Event,
    ) -> None:
        self._campaigns = campaigns
        self._campaign = campaign
        self._rebuilder = rebuilder
        self._store = store
        self._courtesy = courtesy
        self._persevere = persevere
        self._stop = stop
        self._in_hand: set[int] = set()
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Work until the campaign is over, whoever does the rest of it, or until ``stop``."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_chunks())
                await asyncio.wait([tasks.create_task(self._work()) for _ in range(_AT_ONCE)])
                self._over.set()
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        release = partial(self._campaigns.release, self._campaign.id, tuple(self._in_hand))
        await self._persevere("freeing chunks", release)

    async def _keep_chunks(self) -> None:
        """Keep what is in hand from being taken by others."""
        while not await wait_for(self._over, LEASE_SECONDS / 4):
            renew = partial(self._campaigns.renew, self._campaign.id, tuple(self._in_hand))
            await self._persevere("keeping chunks", renew)

    async def _work(self) -> None:
        take = partial(self._campaigns.take, self._campaign.id)
        conclude = partial(self._campaigns.conclude, self._campaign.id)
        chunk: Chunk | None = None
        while not (self._stop.is_set() or self._over.is_set()):
            chunk = chunk or self._taken(await self._persevere("taking a chunk", take))
            if chunk is not None:
                chunk = await self._rebuild(chunk)
            elif await self._persevere("looking for chunks", conclude):
                self._over.set()
            else:  # Others work, in this process or another, and may leave what they have.
                await wait_for_any([self._stop, self._over], _LOOK_AGAIN_SECONDS)

    async def _rebuild(self, chunk: Chunk) -> Chunk | None:
        """Rebuild a chunk, say so, and take the next one; at a stop it stays in hand, undone."""
        results: list[Rebuilt] = []
        undone = chunk.stream_ids
        async with aclosing(self._courtesy.parts(chunk.stream_ids, len(chunk.stream_ids))) as parts:
            async for part in parts:
                rebuilt = await self._persevere("rebuilding", partial(self._rebuild_part, part))
                if rebuilt is None:
                    return None
                results += rebuilt
                undone = undone[len(part) :]
        if undone:
            return None
        done = partial(
            self._campaigns.note_done,
            self._campaign.id,
            chunk.number,
            sum(of.events for of in results),
            [RefusedStream(of.stream_id, of.refusal, of.detail) for of in results if of.refusal],
        )
        following = await self._persevere("noting what is done", done)
        self._in_hand.discard(chunk.number)
        return self._taken(following)

    def _taken(self, chunk: Chunk | None) -> Chunk | None:
        """Keep a chunk that was taken, so that it is given back at a stop."""
        if chunk is not None:
            self._in_hand.add(chunk.number)
        return chunk

    async def _rebuild_part(self, stream_ids: Sequence[str]) -> list[Rebuilt]:
        scope = self._campaign.scope
        if scope.stale:  # Live projection may have brought them up meanwhile.
            stamps = await self._store.stamps(stream_ids)
            versions = {stream_id: stamp.version for stream_id, stamp in stamps.items()}
            stream_ids = [
                s for s in stream_ids if versions.get(s, self._campaign.version) < self._campaign.version
            ]
        return await self._rebuilder.rebuild(stream_ids, accept_loss=scope.accept_loss)
