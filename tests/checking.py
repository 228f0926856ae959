"""What tests of checks share: a deployment to look at, and what was found of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from projections import strategies
from projections.stored_transcripts import transcripts
from worker.check import Deployment, Report, Severity, run_checks
from worker.database import make_engine, parse_database_url
from worker.redis_client import make_client
from worker.settings import Settings

NOWHERE_REDIS = "redis://:secret@127.0.0.1:1/0"
NOWHERE_POSTGRESQL = "postgresql://worker:secret@127.0.0.1:1/nowhere"


@asynccontextmanager
async def deployment(
    redis_url: str = NOWHERE_REDIS,
    database_url: str = NOWHERE_POSTGRESQL,
    *,
    settings: dict[str, Any] | None = None,
    **rest: Any,
) -> AsyncIterator[Deployment]:
    """The shipped projections on these servers; one that is not named is away."""
    read = Settings(**settings or {})
    redis = make_client(redis_url, read.keys)
    engine = make_engine(parse_database_url(database_url), pool_size=7, application_name="check")
    try:
        yield Deployment(read, [strategies, transcripts], redis, engine, **rest)
    finally:
        await redis.aclose()
        await engine.dispose()


async def look(redis_url: str = NOWHERE_REDIS, database_url: str = NOWHERE_POSTGRESQL, **rest: Any) -> Report:
    """What all checks find."""
    async with deployment(redis_url, database_url, **rest) as of:
        return await run_checks(of)


def names(report: Report) -> set[str]:
    """The names of what was found."""
    return {finding.kind.name for finding in report.findings}


def above_info(report: Report) -> set[str]:
    """The names of errors and warnings."""
    return {f.kind.name for f in report.findings if f.kind.severity is not Severity.INFO}


def said(report: Report, name: str) -> str:
    """What findings of a kind say."""
    return "\n".join(finding.what for finding in report.findings if finding.kind.name == name)
