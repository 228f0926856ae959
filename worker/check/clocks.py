"""Whether this host and the servers agree on the time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from redis.asyncio import Redis
from sqlalchemy import text

from worker.check.everywhere import everywhere
from worker.check.finding import Area, Check, Deployment, Finding, Kind, Severity

_TOLERATED_SECONDS = 1.0

_NTP = "Have NTP keep the time on both hosts."

REDIS_DIFFERS = Kind(
    "clock-differs-from-redis",
    Severity.WARNING,
    "Event ids carry Redis's time and replicas report by their own, so that lag is measured wrongly, and "
    "from 15 seconds on live replicas count as gone in `status`; no row is wrong for it.",
    _NTP,
)
POSTGRESQL_DIFFERS = Kind(
    "clock-differs-from-postgresql",
    Severity.WARNING,
    "Dead letters are tried again, and shares of a rebuild taken over, by PostgreSQL's clock, and what is "
    "told of them is off by as much; no row is wrong for it.",
    _NTP,
)


async def _redis(of: Deployment) -> Sequence[Finding]:
    async def look(redis: Redis) -> Sequence[Finding]:
        async def ask() -> float:
            seconds, microseconds = await redis.time()
            return float(seconds + microseconds / 1e6)

        return await _compare(of, ask, REDIS_DIFFERS, "Redis")

    return await everywhere(of, look)


async def _postgresql(of: Deployment) -> Sequence[Finding]:
    async with of.engine.connect() as connection:

        async def ask() -> float:
            now = await connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())"))
            return float(now or 0)

        return await _compare(of, ask, POSTGRESQL_DIFFERS, "PostgreSQL")


async def _compare(
    of: Deployment, ask: Callable[[], Awaitable[float]], kind: Kind, whose: str
) -> Sequence[Finding]:
    """The answer is of some moment between question and reply; a difference is what lies outside."""
    await ask()  # The first one may take a connection to be made.
    before = of.clock()
    theirs = await ask()
    after = of.clock()
    ahead, behind = theirs - after, before - theirs
    apart = max(ahead, behind)
    if apart <= _TOLERATED_SECONDS:
        return []
    return [kind.found(f"{whose} is {apart:,.1f} s {'ahead of' if ahead > 0 else 'behind'} this host.")]


CHECKS = (
    Check("Redis's clock", Area.REDIS, _redis, (REDIS_DIFFERS,)),
    Check("PostgreSQL's clock", Area.POSTGRESQL, _postgresql, (POSTGRESQL_DIFFERS,)),
)
