"""OpenTelemetry, where the extra `otel` is installed and the environment asks for traces; else nothing of it.

Spans wait in memory, so many at most, for a thread that sends them; what the collector does, or fails to do,
costs spans and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.util import find_spec
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

log = structlog.get_logger("worker")

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_TELL_AGAIN_SECONDS = 60.0
_MOST_CHARACTERS = 40


@asynccontextmanager
async def tracing(
    consumer: str, environ: Mapping[str, str], flush_seconds: float
) -> AsyncIterator[Tracer | None]:
    """A tracer while the block lasts; None where nobody asks for traces, or they cannot be had.

    At the end, what has not been sent yet may take ``flush_seconds``; the rest is lost.
    """
    if not traces_wanted(environ):
        yield None
        return
    if reason := _obstacle(environ):
        log.warning("traces_off", reason=reason)
        yield None
        return
    with _told_of_the_library(_secrets(environ)):
        try:
            provider = _make_provider(consumer)
        except Exception as error:  # whatever the variables made the library do
            why = f"OpenTelemetry could not be set up ({type(error).__name__}): mend its variables, OTEL_..."
            log.warning("traces_off", reason=why)
            yield None
            return
        log.info("traces_on")
        try:
            yield provider.get_tracer("projection-worker")
        finally:
            if not await _shut_down(provider, flush_seconds):
                log.warning("traces_not_exported", error=f"no answer for {flush_seconds:g} s at the stop")


def traces_wanted(environ: Mapping[str, str]) -> bool:
    """Whether the standard variables ask for traces: an endpoint is named, or an exporter other than none."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter:
        return exporter != "none"
    return any(environ.get(name) for name in _ENDPOINTS)


def tell_of_failure(error: Exception) -> None:
    """A span could not be made."""
    logging.getLogger("opentelemetry").error("A span was lost: %s", error)


def _obstacle(environ: Mapping[str, str]) -> str:
    """Why traces that are asked for cannot be had; empty where they can."""
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if exporter != "otlp":
        return f"OTEL_TRACES_EXPORTER is {exporter!r}: there are otlp and none."
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        return f"The OTLP protocol is to be {protocol!r}: there is http/protobuf, mostly on port 4318."
    endpoint = next((name for name in _ENDPOINTS if environ.get(name)), "")
    if endpoint and not environ[endpoint].lower().startswith(("http://", "https://")):
        return f"{endpoint} is no URL: write it as http://localhost:4318."
    try:
        there = find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:
        there = None
    return "" if there else "OpenTelemetry is not installed: pip install 'projection-worker[otel]'."


def _make_provider(consumer: str) -> TracerProvider:
    """A provider of its own, which nothing else in this process gets to see."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    ours = {"service.name": "projection-worker", "service.instance.id": consumer}
    given = OTELResourceDetector().detect().attributes
    # Not at exit: the library would wait for its collector without end.
    provider = TracerProvider(resource=Resource.create({**ours, **given}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


async def _shut_down(provider: TracerProvider, seconds: float) -> bool:
    """Send what waits; whether that was done in time. A thread that is late ends with the process."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def shut_down() -> None:
        provider.shutdown()
        with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(done.set)

    Thread(target=shut_down, name="traces at the stop", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await done.wait()
    return done.is_set()


def _secrets(environ: Mapping[str, str]) -> tuple[str, ...]:
    """What no line may repeat in part: headers, which the library quotes where they are not understood."""
    return tuple(v for name, v in environ.items() if name.startswith("OTEL_") and name.endswith("_HEADERS"))


@contextmanager
def _told_of_the_library(secrets: Sequence[str]) -> Iterator[None]:
    """What the library logs becomes a line of ours now and then, as long as the block lasts."""
    logger, handler = logging.getLogger("opentelemetry"), _Handler(logging.WARNING, secrets)
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        # A thread that is late must not write in ways of its own: the handler stays, and is silent.
        handler.silent = True
        logger.propagate = propagated


class _Handler(logging.Handler):
    """One line a minute, with how often something failed. Called by the exporter's thread, too."""

    silent = False

    def __init__(self, level: int, secrets: Sequence[str]) -> None:
        super().__init__(level)
        self._secrets = secrets
        self._failures = 0
        self._tell_at = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        self._failures += 1
        if self.silent or monotonic() < self._tell_at:
            return
        self._tell_at = monotonic() + _TELL_AGAIN_SECONDS
        failures, self._failures = self._failures, 0
        log.warning("traces_not_exported", error=self._harmless(record), failures=failures)

    def _harmless(self, record: logging.LogRecord) -> str:
        """What the library says, without texts that may hold a credential, such as a URL."""
        arguments = record.args if isinstance(record.args, tuple) else ()
        with suppress(TypeError, ValueError):
            return str(record.msg) % tuple(map(self._harmless_argument, arguments))
        return str(record.msg)

    def _harmless_argument(self, argument: Any) -> Any:
        if isinstance(argument, int | float):
            return argument
        if isinstance(argument, BaseException):
            return type(argument).__name__
        text = str(argument)
        known = len(text) <= _MOST_CHARACTERS and text.replace(" ", "").isalpha()
        return text if known and not any(text in secret for secret in self._secrets) else "..."
