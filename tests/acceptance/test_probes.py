"""What probes learn of a real worker over HTTP, while servers and the worker itself are in trouble."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from sqlalchemy import make_url

from tests.acceptance.commands import RunningCommand, call, running, worker_environment
from tests.asking import Reply, ask
from tests.own_servers import OwnServer
from tests.servers import RunningServers
from tests.waiting import block_until, wait_until
from worker import Keys, emit
from worker.address import Address, parse_address


@pytest.fixture
def env(servers: RunningServers, database_url: str, keys_prefix: str) -> dict[str, str]:
    return worker_environment(servers.redis_url, database_url, keys_prefix) | ANYWHERE


ANYWHERE = {"WORKER_HTTP_ADDRESS": "127.0.0.1:0"}
START_SECONDS = 30


async def address_of(worker: RunningCommand) -> Address:
    """Where it says that it answers."""

    def said() -> str | None:
        found = re.search(r'"address": "([^"]+)", "event": "http_on"', worker.log)
        return found[1] if found else None

    address = parse_address(await wait_until(said, "the worker to say where it answers", START_SECONDS))
    assert address is not None
    return address


async def status(address: Address, path: str) -> int:
    return (await ask(address, path)).status


@asynccontextmanager
async def ready_worker(env: dict[str, str]) -> AsyncIterator[tuple[RunningCommand, Address]]:
    with running("run", env=env) as worker:
        address = await address_of(worker)

        async def ready() -> bool:
            return await status(address, "/readyz") == 200

        await wait_until(ready, "the worker to be ready", START_SECONDS)
        yield worker, address
        assert await asyncio.to_thread(worker.stop) == 0, worker.log


async def test_killing_postgresql_turns_readyz_red_within_five_seconds_and_livez_stays_green(
    servers: RunningServers, postgresql: OwnServer, keys_prefix: str
) -> None:
    password = make_url(postgresql.url).password
    assert password
    env = worker_environment(servers.redis_url, postgresql.url, keys_prefix) | ANYWHERE
    async with ready_worker(env) as (_, address):
        await asyncio.to_thread(postgresql.kill)
        killed_at = time.monotonic()
        alive: list[int] = []

        async def not_ready() -> Reply | None:
            alive.append(await status(address, "/livez"))
            reply = await ask(address, "/readyz")
            return reply if reply.status == 503 else None

        reply = await wait_until(not_ready, "readyz to turn red")
        assert time.monotonic() - killed_at < 5
        assert re.match(rb"[a-zA-Z ]+, since 20[-0-9 :]+ UTC: \w+", reply.body)
        assert password not in reply.body.decode()
        await asyncio.to_thread(postgresql.start)

        async def ready() -> bool:
            alive.append(await status(address, "/livez"))
            return await status(address, "/readyz") == 200

        await wait_until(ready, "readyz to turn green again", 20)
        assert set(alive) == {200}


async def test_a_worker_that_never_reached_its_servers_is_alive_and_not_ready(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    nowhere = {**env, "REDIS_URL": f"redis://:s3cret@127.0.0.1:{port}/0"}
    with running("run", env=nowhere) as worker:
        address = await address_of(worker)
        assert await status(address, "/livez") == 200

        async def says_why() -> bool:
            reply = await ask(address, "/readyz")
            assert reply.status == 503
            assert b"s3cret" not in reply.body
            return b"connecting to Redis, since" in reply.body

        await wait_until(says_why, "readyz to say why")
        assert await asyncio.to_thread(worker.stop) == 0


async def test_no_probe_is_answered_while_the_worker_is_frozen(env: dict[str, str]) -> None:
    async with ready_worker(env) as (worker, address):
        worker.process.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await ask(address, "/livez")
        worker.process.send_signal(signal.SIGCONT)
        assert await status(address, "/livez") == 200


async def test_no_probe_is_answered_while_a_handler_does_not_return(
    env: dict[str, str], producer: Redis, keys_prefix: str
) -> None:
    stuck = {**env, "WORKER_PROJECTIONS": "tests.stuck_strategies", "WORKER_STUCK_SECONDS": "3600"}
    with running("run", env=stuck) as worker:
        address = await address_of(worker)
        await wait_until(lambda: worker.says("started"), "the worker to start", START_SECONDS)
        assert await status(address, "/livez") == 200
        await emit(producer, "a", "", "user_message", {}, keys=Keys(keys_prefix))

        async def silent() -> bool:
            try:
                async with asyncio.timeout(1):
                    await ask(address, "/livez")
            except TimeoutError:
                return True
            return False

        await wait_until(silent, "probes to go unanswered")


def test_an_address_in_use_ends_the_start_with_a_sentence(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        refused = call("run", env={**env, "WORKER_HTTP_ADDRESS": address})
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"WORKER_HTTP_ADDRESS is {address}, where this process cannot listen")
    assert refused.stderr.count("\n") == 1


def test_a_malformed_address_is_a_sentence(env: dict[str, str]) -> None:
    refused = call("run", env={**env, "WORKER_HTTP_ADDRESS": "9464"})
    assert refused.returncode == 2
    assert refused.stderr.startswith("WORKER_HTTP_ADDRESS is wrong: it is no address; write host and port")
    assert refused.stderr.count("\n") == 1


def test_where_another_worker_has_the_default_address_this_one_works_without(env: dict[str, str]) -> None:
    default = {name: value for name, value in env.items() if name != "WORKER_HTTP_ADDRESS"}
    with running("run", env=default) as first, running("run", env=default) as second:
        block_until(
            lambda: first.says('"started"') and second.says('"started"'),
            "both workers to start",
            START_SECONDS,
        )
        assert second.says("http_off") or first.says("http_off")
        assert first.stop() == second.stop() == 0


async def test_readyz_is_red_from_the_first_moment_until_both_servers_were_reached(
    env: dict[str, str],
) -> None:
    with running("run", env=env) as worker:
        address = await address_of(worker)

        async def ready() -> bool:

            answered = await status(address, "/readyz")
            assert answered == 503 or worker.says('"started"')
            return answered == 200

        await wait_until(ready, "the worker to be ready", START_SECONDS)
        assert await asyncio.to_thread(worker.stop) == 0
