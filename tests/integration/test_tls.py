"""Both servers behind TLS: certificates are checked on both sides, and what is wrong with one is said."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from redis.asyncio import Redis

from tests.acceptance.commands import call_here, worker_environment
from tests.servers import RunningServers
from tests.tls import HOST, PASSED, Authority, behind_tls, server_context, with_parameters
from tests.working import working
from worker import Keys


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


async def show(redis_url: str, database_url: str, keys: Keys) -> CompletedProcess[str]:
    env = worker_environment(redis_url, database_url, keys.prefix)
    return await asyncio.to_thread(call_here, "show", "a", env=env)


async def test_a_worker_shows_and_checks_certificates(
    servers: RunningServers, database_url: str, redis: Redis, keys: Keys, authority: Authority
) -> None:
    context = server_context(authority.issue(), clients=authority)
    certificate, key = authority.issue("client")
    async with (
        behind_tls(servers.redis_url, context) as redis_url,
        behind_tls(database_url, context) as sql_url,
    ):
        redis_url = with_parameters(
            redis_url, ssl_ca_certs=authority.file, ssl_certfile=certificate, ssl_keyfile=key
        )
        sql_url = with_parameters(
            sql_url, sslmode="verify-full", sslrootcert=authority.file, sslcert=certificate, sslkey=key
        )
        async with working(redis, redis_url, sql_url, database_url, keys) as worker:
            await worker.reached("a", await worker.emit("a"))
            await worker.ready()
        assert (await show(redis_url, sql_url, keys)).returncode == 0


@dataclass(frozen=True)
class Case:
    """What is wrong, with the words that say so."""

    words: tuple[str, str]
    name: str = HOST
    until: datetime | None = None
    trusted: str = "ours"
    asks_clients: bool = False


CASES = {
    "expired": Case(("certificate has expired", "Renew the server's certificate."), until=PASSED),
    "other host": Case(
        ("Hostname mismatch", "Connect by a name that the server's certificate"), "other.test"
    ),
    "other authority": Case(("certificate is refused", "Name the certificate of the"), trusted="theirs"),
    "no client certificate": Case(("", ""), asks_clients=True),  # Some servers just hang up.
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("variable", ["REDIS_URL", "DATABASE_URL"])
async def test_a_certificate_that_does_not_do_is_one_sentence(
    servers: RunningServers, database_url: str, tmp_path: Path, keys: Keys, variable: str, case: Case
) -> None:
    authorities = {name: Authority(tmp_path / name) for name in ("ours", "theirs")}
    ours, trusted = authorities["ours"], authorities[case.trusted].file
    context = server_context(ours.issue(case.name, until=case.until), ours if case.asks_clients else None)
    urls = {"REDIS_URL": servers.redis_url, "DATABASE_URL": database_url}
    async with behind_tls(urls[variable], context) as url:
        if variable == "REDIS_URL":
            urls[variable] = with_parameters(url, ssl_ca_certs=trusted)
        else:
            urls[variable] = with_parameters(url, sslmode="verify-full", sslrootcert=trusted)
        ended = await show(urls["REDIS_URL"], urls["DATABASE_URL"], keys)
    assert ended.returncode == 1
    assert all(word in ended.stderr for word in (*case.words, variable)), ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("\n") == 1


async def test_a_server_without_tls_is_one_sentence(
    servers: RunningServers, database_url: str, keys: Keys, authority: Authority
) -> None:
    url = with_parameters(database_url, sslmode="verify-full", sslrootcert=authority.file)
    ended = await show(servers.redis_url, url, keys)
    assert "rejected SSL upgrade" in ended.stderr


async def test_a_worker_waits_for_a_certificate_to_be_mended(
    servers: RunningServers, database_url: str, redis: Redis, keys: Keys, authority: Authority
) -> None:
    context = server_context(authority.issue(until=PASSED))
    async with behind_tls(database_url, context) as url:
        url = with_parameters(url, sslmode="verify-full", sslrootcert=authority.file)
        async with working(redis, servers.redis_url, url, database_url, keys) as worker:
            await worker.not_ready("connecting to PostgreSQL", "certificate has expired", "Renew")
            context.load_cert_chain(*authority.issue())
            await worker.ready()
