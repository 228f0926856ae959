"""Traces: who gets any, what is imported for them, and what entries say of their producers."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Tracer
from structlog.testing import capture_logs

from worker import Keys
from worker.attempt import Attempt, Since
from worker.traceparent import Traceparents, current_traceparent
from worker.tracing import traces_wanted, tracing

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ATTEMPT = Attempt("s", "op-1", "add", "{}", hinted=True, keys=Keys(), since=Since())


def run_without_opentelemetry(code: str) -> str:
    """What Python prints that finds no such package, as where the extra is not installed."""
    hidden = "import sys\nsys.modules['opentelemetry'] = None\n"
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", hidden + code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def tracer() -> Iterator[Tracer]:
    provider = TracerProvider(shutdown_on_exit=False)
    yield provider.get_tracer("producer")
    provider.shutdown()


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "worker"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", **ENDPOINT}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp", **ENDPOINT}, False),
        ({"OTEL_SDK_DISABLED": "false", **ENDPOINT}, True),
    ],
)
async def test_the_standard_variables_say_whether_there_are_traces(
    environ: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert traces_wanted(environ) is wanted
    with capture_logs() as lines:
        async with tracing("me", environ, 5) as tracer:
            assert (tracer is not None) is wanted
    assert [line["event"] for line in lines] == (["traces_on"] if wanted else [])


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin': there are otlp and none."),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "The OTLP protocol is to be 'grpc': there is http/protobuf",
        ),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "OpenTelemetry could not be set up (ValueError): mend its"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"},
            "OTEL_EXPORTER_OTLP_ENDPOINT is no URL: write it as http://localhost:4318.",
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "user:hunter@host"},
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is no URL",
        ),
    ],
)
async def test_traces_that_cannot_be_had_are_told_of_and_done_without(
    variables: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {**ENDPOINT, **variables}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with capture_logs() as lines:
        async with tracing("me", environ, 5) as tracer:
            assert tracer is None
    [line] = lines
    assert (line["event"], line["log_level"]) == ("traces_off", "warning")
    assert reason in line["reason"]
    assert "hunter" not in line["reason"]


def test_nothing_of_the_worker_imports_opentelemetry_by_itself() -> None:
    told = run_without_opentelemetry(
        "import asyncio, importlib, pkgutil, worker\n"
        "for module in pkgutil.walk_packages(worker.__path__, 'worker.'):\n"
        "    importlib.import_module(module.name)\n"
        "from worker.traceparent import current_traceparent\n"
        "from worker.tracing import tracing\n"
        "async def off():\n"
        "    async with tracing('me', {}, 1) as tracer:\n"
        "        return tracer\n"
        "print(asyncio.run(off()), current_traceparent())\n"
        "print([name for name, module in sys.modules.items() if 'opentelemetry' in name and module])\n"
    )
    assert told == "None None\n[]\n"


def test_without_the_extra_a_worker_that_is_asked_for_traces_says_what_to_install() -> None:
    told = run_without_opentelemetry(
        "import asyncio, os\n"
        "from structlog.testing import capture_logs\n"
        "from worker.tracing import tracing\n"
        "async def asked():\n"
        "    async with tracing('me', {'OTEL_TRACES_EXPORTER': 'otlp'}, 1) as tracer:\n"
        "        return tracer\n"
        "with capture_logs() as lines:\n"
        "    print(asyncio.run(asked()))\n"
        "print(lines[0]['event'], lines[0]['reason'])\n"
    )
    assert told == (
        "None\ntraces_off OpenTelemetry is not installed: pip install 'projection-worker[otel]'.\n"
    )


async def test_what_the_exporter_logs_is_a_line_of_ours_without_its_secrets() -> None:
    with capture_logs() as lines:
        async with tracing("me", ENDPOINT, 5):
            library = logging.getLogger("opentelemetry.exporter")
            url = "http://user:secret@host/?token=secret"
            library.warning("Failed to export %s batch code: %s, reason: %s", "spans", 503, url)
            library.error("failed again: %s", ConnectionError(url))
    assert [line["event"] for line in lines] == ["traces_on", "traces_not_exported"]  # one a minute
    assert lines[1]["error"] == "Failed to export spans batch code: 503, reason: ..."
    assert "secret" not in str(lines)


async def test_headers_that_the_library_does_not_understand_are_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = {**ENDPOINT, "OTEL_EXPORTER_OTLP_HEADERS": "Bearer hunter"}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", environ["OTEL_EXPORTER_OTLP_HEADERS"])
    with capture_logs() as lines:
        async with tracing("me", environ, 5):
            pass
    assert "Header format invalid" in lines[0]["error"]
    assert "hunter" not in str(lines)


def test_only_a_span_that_is_recorded_is_named(tracer: Tracer) -> None:
    assert current_traceparent() is None
    with tracer.start_as_current_span("request") as span:
        context = span.get_span_context()
        ids = f"{context.trace_id:032x}-{context.span_id:016x}"
        assert current_traceparent() == f"00-{ids}-{context.trace_flags:02x}"
    assert current_traceparent() is None
    unsampled = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("producer")
    with unsampled.start_as_current_span("request"):
        assert current_traceparent() is None


def test_an_event_that_is_emitted_again_in_another_span_is_the_same_event() -> None:
    fields = [part.encode() for part in replace(ATTEMPT, traceparent=TRACEPARENT).log_entry[3:]]
    assert fields[6:] == [b"traceparent", TRACEPARENT.encode()]
    for traceparent in (None, TRACEPARENT, "00-other"):
        attempt = replace(ATTEMPT, traceparent=traceparent)
        assert attempt.identity == ATTEMPT.identity
        assert attempt.is_entry(fields)
        assert attempt.is_entry(fields[:6])
        assert not attempt.is_entry([*fields[:6], b"more", b"x"])
        assert not attempt.is_entry([*fields[:5], b'{"n":1}', *fields[6:]])
        assert not attempt.is_entry([*fields[:6], b"more", b"x", *fields[6:]])


def test_traceparents_are_kept_once_each_and_only_so_many() -> None:
    found = Traceparents(most=3)
    for number in (1, 1, 2, 3, 4):
        found.note([b"op", b"", b"type", b"add", b"data", b"{}", b"traceparent", b"%d" % number])
    assert found.take() == [b"1", b"2", b"3"]
    assert found.take() == []
    found.note([b"traceparent", b"x" * 1_000, b"op", b""])
    found.note([b"op", b"", b"other", b"traceparent"])
    found.note([b"traceparent", b"first", b"traceparent", b"last"])
    assert found.take() == [b"last"]
