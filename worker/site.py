"""What is answered over HTTP, path by path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from importlib.resources import files
from time import monotonic

import orjson
import structlog
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from worker.errors import SettingsError
from worker.exposition import Metrics
from worker.health import Health
from worker.http import Answer, Routes, serve_http
from worker.insight import Insight
from worker.overview import overview
from worker.settings import Settings

log = structlog.get_logger("http")

_STUCK_TIMES = 10
"""By how much what a stuck handler may take is exceeded by what waits for slow servers again and again."""
_KEPT_SECONDS = 1.0
_PAGE_FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}


@asynccontextmanager
async def serve_site(settings: Settings, insight: Insight) -> AsyncIterator[None]:
    """Answer over HTTP while the block lasts, if the settings say where.

    Raises SettingsError where the address cannot be had. Where it is only the default, another worker of the
    host may have it; this one works without.
    """
    async with AsyncExitStack() as stack:
        if settings.http is not None:
            routes = make_routes(insight, settings.stuck)
            try:
                address = await stack.enter_async_context(serve_http(settings.http, routes))
            except SettingsError as error:
                if "http_address" in settings.model_fields_set:
                    raise
                log.warning("http_off", error=str(error))
            else:
                log.info("http_on", address=str(address))
        yield


def make_routes(insight: Insight, stuck: timedelta) -> Routes:
    """All paths; ``stuck`` is what WORKER_STUCK_SECONDS says."""
    health, metrics, page = insight.health, Metrics(insight), _page()
    return {
        "/livez": lambda: _livez(health, stuck * _STUCK_TIMES),
        "/readyz": lambda: _readyz(health),
        "/": lambda: page["index.html"],
        "/page.css": lambda: page["page.css"],
        "/page.js": lambda: page["page.js"],
        "/status.json": _kept(lambda: _status(insight)),
        "/metrics": _kept(lambda: Answer(200, metrics.text(), CONTENT_TYPE_PLAIN_0_0_4)),
    }


def _livez(health: Health, limit: timedelta) -> Answer:
    """Whether the process should be left alone: a server that is away is no reason to start another one.

    That this is answered at all says that the loop turns, and that no task has died: one that does ends the
    worker.
    """
    stuck = health.stuck(limit)
    return Answer.text(503, *stuck) if stuck else Answer.text(200, "The worker is alive.")


def _readyz(health: Health) -> Answer:
    """Whether everything works that the worker is there for; and what does not, and since when."""
    if health.ready:
        return Answer.text(200, "The worker is ready.")
    return Answer.text(503, *map(str, health.problems()))


def _status(insight: Insight) -> Answer:
    """How it all stands, for programs and for the page."""
    insight.look()
    told = orjson.dumps(overview(insight), option=orjson.OPT_NON_STR_KEYS)
    return Answer(200, told, "application/json")


def _page() -> dict[str, Answer]:
    """The files of the status page, which are the same for everybody."""
    folder = files("worker") / "page"
    return {
        name: Answer(200, (folder / name).read_bytes(), content_type)
        for name, content_type in _PAGE_FILES.items()
    }


def _kept(make: Callable[[], Answer]) -> Callable[[], Answer]:
    """The same answer for a moment: however often it is asked for, it takes no time from the projecting."""
    kept: list[tuple[float, Answer]] = []

    def answer() -> Answer:
        if not kept or monotonic() - kept[0][0] >= _KEPT_SECONDS:
            kept[:] = [(monotonic(), make())]
        return kept[0][1]

    return answer
