"""Looking over all logs, without reading them: which there are, and where they end. Nothing here writes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from redis.asyncio import Redis

from worker.events import parse_stream_id
from worker.keys import Keys
from worker.log_servers import log_servers
from worker.scan_steps import LAST_IDS, NO_STREAM
from worker.stream_glob import ALL_STREAMS, StreamGlob

__all__ = ["NO_STREAM", "LogScan"]

_SCAN_KEYS = 500


class LogScan:
    """All logs under a key prefix whose streams a projection takes, whatever is in them."""

    def __init__(self, redis: Redis, keys: Keys, streams: StreamGlob = ALL_STREAMS) -> None:
        self._servers = log_servers(redis)
        self._keys = keys
        self._prefix_bytes = len(keys.log_prefix.encode())
        self._streams = streams
        self._pattern = streams.redis_pattern(keys.log_prefix)

    async def all_streams(self) -> AsyncGenerator[list[str], None]:
        """The streams of all keys of logs, step by step, as `scan` finds them; one may come twice."""
        async with aclosing(self.scan(_SCAN_KEYS)) as steps:
            async for stream_ids, _ in steps:
                yield stream_ids

    async def scan(self, count: int) -> AsyncGenerator[tuple[list[str], list[bytes]], None]:
        """All keys of logs, about ``count`` at a time: stream ids, and keys that spell none.

        Keys that hold something else than a stream are among them; `last_ids` tells. As with SCAN, a key may
        come twice, and one that exists all the time comes at least once; on a cluster, unless its slot moves
        to another node meanwhile.
        """
        async with aclosing(self._servers.scan(self._pattern, count)) as steps:
            async for names in steps:
                yield self._streams_of(names)

    def _streams_of(self, names: Sequence[bytes]) -> tuple[list[str], list[bytes]]:
        streams: list[str] = []
        unusable: list[bytes] = []
        for name in names:
            stream_id = parse_stream_id(name[self._prefix_bytes :])
            if stream_id is None:
                unusable.append(name)
            elif self._streams.covers(stream_id):
                streams.append(stream_id)
        return streams, unusable

    async def scan_ends(self, count: int) -> AsyncGenerator[dict[bytes, bytes], None]:
        """All keys of logs as the server sends them, about ``count`` at a time: what follows the prefix in
        the name of each, with the id of its last entry: empty where there is none, NO_STREAM where the key
        holds something else."""
        prefix, covers = self._prefix_bytes, self._streams.covers_raw
        async with aclosing(self._servers.scan_ends(self._pattern, count)) as steps:
            async for ends in steps:
                found = {name[prefix:]: end for name, end in ends.items()}
                yield {raw: end for raw, end in found.items() if covers(raw)}

    async def last_ids(self, stream_ids: Sequence[str]) -> list[str | None]:
        """The id of each log's last entry; None where there is no log, or an empty one; or NO_STREAM."""
        logs = [(self._keys.log(stream_id), ()) for stream_id in stream_ids]
        return [reply.decode() or None for reply in await self._servers.run(LAST_IDS, [NO_STREAM], logs)]
