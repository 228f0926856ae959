"""The HTTP server: it tells what it is there to tell, and outsiders can do nothing with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest

from tests.asking import ask, parse, send
from tests.waiting import wait_until
from worker import http
from worker.address import Address
from worker.errors import SettingsError
from worker.http import Answer, serve_http

ANYWHERE = Address("127.0.0.1", 0)
PATHS = ["/livez", "/broken"]

OTHER_METHODS = ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"]
UNKNOWN_PATHS = [
    "/nothing",
    "/livez/",
    "//livez",
    "/../livez",
    "/./livez",
    "/livez/../livez",
    "/..%2f..%2fetc%2fpasswd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/livez%00",
    "/livez%0d%0aset-cookie:%20x",
    "/%ff%fe",
    "/page/../../pyproject.toml",
    "/status.html~",
    "/.git/config",
    "/debug/pprof/",
    "http://elsewhere/livez",
    "*",
]
NO_REQUESTS = [
    b"GET /livez\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    b"GET /livez HTTP/1.1\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"GET /liv\xc3\xa9z HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET " + b"/" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200_000 + b"\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nCookie: " + b"c" * 1_000_000 + b"\r\n\r\n",
]
"""What no server must take for a request."""
LOADED_REQUESTS = [
    b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 5_000_000,
    b"POST /livez HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000,
    b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n",
    b"GET /livez HTTP/1.0\r\n\r\n",
]
"""Requests that want more than an answer."""


def broken() -> Answer:
    raise ZeroDivisionError("a secret of the worker")


ROUTES = {"/livez": lambda: Answer.text(200, "The worker is alive."), "/broken": broken}


@pytest.fixture
async def address() -> AsyncIterator[Address]:
    async with serve_http(ANYWHERE, ROUTES) as address:
        yield address
        assert (await ask(address, "/livez")).status == 200, "the server to have survived the test"


async def test_a_path_is_answered_and_the_connection_closed(address: Address) -> None:
    reply = await ask(address, "/livez")
    assert (reply.status, reply.body) == (200, b"The worker is alive.\n")
    assert reply.headers["connection"] == "close"


async def test_a_head_request_is_answered_without_a_body(address: Address) -> None:
    reply = await ask(address, "/livez", "HEAD")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["content-length"] == "21"


async def test_a_query_changes_nothing(address: Address) -> None:
    assert (await ask(address, "/livez?verbose=1&token=x")).body == b"The worker is alive.\n"


async def test_every_answer_has_the_headers_that_keep_browsers_careful_and_no_banner(
    address: Address,
) -> None:
    for path in (*PATHS, "/nothing"):
        for method in ("GET", "POST"):
            headers = (await ask(address, path, method)).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert "server" not in headers
            assert "access-control-allow-origin" not in headers


async def test_other_methods_are_refused(address: Address) -> None:
    for method in OTHER_METHODS:
        reply = await ask(address, "/livez", method)
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD"), method


async def test_unknown_paths_are_not_found(address: Address) -> None:
    for path in UNKNOWN_PATHS:
        reply = await ask(address, path)
        assert (reply.status, reply.body) == (404, b"There is nothing here.\n"), path
        assert "set-cookie" not in reply.headers, path


async def test_an_answer_that_cannot_be_made_tells_nothing(address: Address) -> None:
    reply = await ask(address, "/broken")
    assert reply.status == 500
    assert b"secret" not in reply.body


async def test_what_is_no_request_is_refused_and_not_logged(
    address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    for request in NO_REQUESTS:
        received = await send(address, request)
        assert received == b"" or parse(received).status in (400, 501), request[:70]
        assert b"alive" not in received, request[:70]
    assert caplog.records == []


async def test_what_comes_with_a_request_or_after_it_is_ignored(
    address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    for request in LOADED_REQUESTS:
        received = await send(address, request)
        assert received.count(b"HTTP/1.1 ") <= 1, request[:70]
        assert b"101 Switching" not in received, request[:70]
        assert b"100 Continue" not in received, request[:70]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    "begun", [b"", b"GET /livez HTTP/1.1\r\nHost: ", b"POST /livez HTTP/1.1\r\nContent-Length: 9\r\n"]
)
async def test_a_slow_client_is_cut_off(monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    monkeypatch.setattr(http, "_CONNECTION_SECONDS", 0.3)
    async with serve_http(ANYWHERE, ROUTES) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(begun)

        async def cut_off() -> bool:
            writer.write(b"x")
            return reader.at_eof() or reader.exception() is not None

        reading = asyncio.create_task(reader.read())
        await wait_until(cut_off, "the server to cut off who sends a byte now and then", 3)
        await asyncio.wait([reading])
        reading.exception()
        writer.close()


async def test_who_does_not_read_the_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_CONNECTION_SECONDS", 0.3)
    large = Answer(200, b"x" * 50_000_000)
    async with serve_http(ANYWHERE, {"/large": lambda: large}) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port, limit=1)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        too_late = time.monotonic() + 1
        await wait_until(lambda: time.monotonic() > too_late, "the deadline to be over")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(len(large.body))
        writer.close()


async def test_many_idle_clients_do_not_keep_a_probe_out(address: Address) -> None:
    idle = [await asyncio.open_connection(address.host, address.port) for _ in range(200)]
    for _ in range(3):
        assert (await ask(address, "/livez")).status == 200
    for _, writer in idle:
        writer.close()


async def test_an_address_in_use_is_a_sentence(address: Address) -> None:
    with pytest.raises(SettingsError, match=rf"WORKER_HTTP_ADDRESS is {address}.*cannot listen.*in use"):
        async with serve_http(address, ROUTES):
            pass


async def test_a_host_that_is_not_ours_is_a_sentence() -> None:
    with pytest.raises(SettingsError, match=r"WORKER_HTTP_ADDRESS is 192\.0\.2\.1:1, where"):
        async with serve_http(Address("192.0.2.1", 1), ROUTES):
            pass


async def test_an_ipv6_address_will_do() -> None:
    async with serve_http(Address("::1", 0), ROUTES) as address:
        assert str(address).startswith("[::1]:")
        assert (await ask(address, "/livez")).status == 200
