"""Load on servers that take over from each other, workers under it, and what must be true in the end."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from itertools import count

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import strategies
from tests.acceptance.commands import RunningCommand, call, running, worker_environment
from tests.conversations import STREAM_IDS, ConversationEvent, Universe, entry_fields, make_event
from tests.payloads import PAYLOADS
from tests.payloads.choices import Rolled
from tests.reference.model import single_reader
from tests.tables import Table, differences, read_table
from tests.waiting import wait_until
from worker import AnyRedis, EmitError, EventId, Keys, OutcomeUnknownError, emit, emit_again
from worker.diverged import DivergedStreams
from worker.waiting import wait_for

STREAMS = (*STREAM_IDS, *(f"chat-{number}" for number in range(27)))
START_SECONDS = 30
STARTED = '"event": "started"'
_PAUSE_SECONDS = 0.003
_EVENTS_A_STEP = 200


class Load:
    """Two producers with clients such as applications have: one emits, the other only appends to logs.

    ``connect`` gives each a client of its own.
    """

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[AnyRedis]], keys: Keys) -> None:
        self._connect = connect
        self._keys = keys
        self._choices = Rolled(random.Random(7))
        self.emitted = self.appended = self.refused = self.unknown = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._emit(stop))
            tasks.create_task(self._append(stop))
            try:
                yield
            finally:
                stop.set()

    def _event(self) -> ConversationEvent:
        return make_event(self._choices, tuple(PAYLOADS))

    async def _emit(self, stop: asyncio.Event) -> None:
        async with self._connect() as redis:
            for number in count():
                if await wait_for(stop, _PAUSE_SECONDS):
                    return
                event_type, payload = self._event()
                data = payload if isinstance(payload, dict) else {}
                name = event_type if isinstance(event_type, str) and event_type else "user_message"
                try:
                    try:
                        await emit(
                            redis, STREAMS[number % len(STREAMS)], str(number), name, data, keys=self._keys
                        )
                    except OutcomeUnknownError as error:
                        self.unknown += 1
                        await emit_again(redis, error)
                    self.emitted += 1
                except EmitError:  # Nothing was appended, or it is still unknown: this event is given up.
                    self.refused += 1

    async def _append(self, stop: asyncio.Event) -> None:
        async with self._connect() as redis:
            for number in count():
                if await wait_for(stop, _PAUSE_SECONDS):
                    return
                try:
                    log = self._keys.log(STREAMS[-1 - number % len(STREAMS)])
                    await redis.xadd(log, entry_fields(*self._event()))  # type: ignore[arg-type]
                    self.appended += 1
                except RedisError:
                    self.refused += 1
                    if isinstance(redis, Redis):  # Of a cluster it finds its way by itself.
                        await redis.connection_pool.disconnect(inuse_connections=False)

    async def goes_on(self) -> None:
        """Wait until both have done so much more."""
        emitted, appended = self.emitted + _EVENTS_A_STEP, self.appended + _EVENTS_A_STEP
        await wait_until(
            lambda: self.emitted >= emitted and self.appended >= appended, "events", START_SECONDS
        )


class Deployment:
    """Two workers, and how a test looks at what they do."""

    def __init__(
        self, url: str, redis: Redis, keys: Keys, engine: AsyncEngine, database_url: str, stack: ExitStack
    ) -> None:
        self.env = worker_environment(url, database_url, keys.prefix)
        self._keys = keys
        self._redis = redis
        self._engine = engine
        self.workers: list[RunningCommand] = [
            stack.enter_context(running("run", env=self.env | {"WORKER_CONSUMER_NAME": name}))
            for name in ("one", "two")
        ]

    async def table(self) -> Table:
        return await read_table(self._engine)

    async def logs(self) -> Universe:
        """What there is now."""
        found: Universe = {}
        for stream_id in STREAMS:
            entries = await self._redis.execute_command("XRANGE", self._keys.log(stream_id), "-", "+")
            found[stream_id] = [
                (event_id.decode(), dict(zip(fields[::2], fields[1::2], strict=True)))
                for event_id, fields in entries
            ]
        return found

    async def diverged(self) -> set[str]:
        """Streams whose row stands at an event that their log does not have."""
        logs, table = await self.logs(), await self.table()
        ids = {stream_id: {event_id for event_id, _ in log} for stream_id, log in logs.items()}
        return {stream_id for stream_id, row in table.items() if row["last_event_id"] not in ids[stream_id]}

    async def rows_beyond(self, event_id: EventId) -> int:
        return sum(EventId.parse(row["last_event_id"]) > event_id for row in (await self.table()).values())

    async def settled(self) -> bool:
        """Whether all that survived is projected, and the workers know what diverged."""
        told = {
            stream_id async for stream_id in DivergedStreams(self._redis, self._keys, strategies.name).all()
        }
        lost, table = await self.diverged(), await self.table()
        reached = {
            stream_id: row["last_event_id"] for stream_id, row in table.items() if stream_id not in lost
        }
        rows = single_reader(await self.logs()).items()
        return told == lost and reached == {s: row["last_event_id"] for s, row in rows if s not in lost}

    async def verified(self) -> set[str]:
        """Which streams are diverged, by `verify` of all rows, to which nothing else must be wrong."""
        ended = await asyncio.to_thread(call, "verify", "--json", env=self.env)
        assert not ended.stderr
        [found] = json.loads(ended.stdout)
        assert found["rows_compared"] + len(found["findings"]) == len(await self.table())
        assert not any(finding["differences"] or finding["missing"] for finding in found["findings"])
        assert found["obstacles"].keys() <= {"diverged"}
        assert found["wrong"] == len(found["findings"])
        assert ended.returncode == bool(found["wrong"])
        return {finding["stream_id"] for finding in found["findings"]}

    async def accept(self, lost: set[str]) -> None:
        """Take the logs of these streams as they are."""
        streams = [part for stream_id in sorted(lost) for part in ("--stream", stream_id)]
        ended = await asyncio.to_thread(call, "rebuild", "--accept-loss", *streams, env=self.env)
        assert ended.returncode == 0, ended.stdout + ended.stderr


async def check_the_end(deployment: Deployment, secrets: Collection[str]) -> set[str]:
    """Every row is what the surviving logs say, but for those that are told to be diverged: returns these."""
    await wait_until(deployment.settled, "the surviving events to be projected", START_SECONDS)
    lost = await deployment.diverged()
    assert await deployment.verified() == lost
    if lost:
        await deployment.accept(lost)
    assert differences(await deployment.table(), single_reader(await deployment.logs())) == []
    assert await deployment.verified() == set()
    codes = await asyncio.gather(*(asyncio.to_thread(worker.stop) for worker in deployment.workers))
    assert codes == [0, 0], "\n".join(worker.log for worker in deployment.workers)
    for worker in deployment.workers:
        assert not any(secret in worker.log for secret in (*secrets, "Traceback"))
    return lost
