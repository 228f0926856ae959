"""On a cluster, too, everybody has the rights that `deploy` gives them: enough for what they do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest
from redis.asyncio.cluster import RedisCluster
from sqlalchemy.ext.asyncio import AsyncEngine

from projections import read_stream_messages, strategies
from tests.acceptance.commands import call, running, worker_environment
from tests.clusters import OwnCluster
from tests.rights import DEPLOY, OPERATOR, PRODUCER, REDIS_READER, USERS_FILE, WORKER
from tests.waiting import wait_until
from worker import Keys, emit, wait_until_projected
from worker.database import make_engine, parse_database_url

CLUSTER_USERS_FILE = (DEPLOY / "redis" / "users-cluster.acl").read_text(encoding="utf-8")
SECONDS = 30
PASSWORD = "secret"


@pytest.fixture
def guarded(cluster: OwnCluster) -> Iterator[OwnCluster]:
    """A cluster, each of whose nodes knows the users, with the key prefix ``app:``."""
    users = [line.split()[1:] for line in CLUSTER_USERS_FILE.splitlines() if " default " not in line]
    for node in cluster.nodes:
        for name, *rights in users:
            ours = [re.sub(r"^[~&]\{?", r"\g<0>app:", right) for right in rights]
            node.do("ACL SETUSER", name, f">{PASSWORD}", *ours)
    yield cluster
    for node in cluster.nodes:
        node.do("ACL DELUSER", *(name for name, *_ in users))


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(parse_database_url(database_url), pool_size=2, application_name="test")
    yield engine
    await engine.dispose()


def of(url: str, user: str) -> str:
    """A URL for a user."""
    return urlsplit(url)._replace(netloc=f"{user}:{PASSWORD}@{url.rpartition('@')[2]}").geturl()


async def test_everybody_can_do_what_they_are_for(
    guarded: OwnCluster, database_url: str, engine: AsyncEngine
) -> None:
    keys = Keys("app:")
    node = guarded.nodes[0]
    env = worker_environment(of(guarded.url, WORKER), database_url, keys.prefix)
    with running("run", env=env) as worker:
        await wait_until(lambda: worker.says("replicas_changed"), "the worker", SECONDS)
        async with RedisCluster.from_url(of(node.url, PRODUCER)) as producer:
            ids = {s: await emit(producer, s, "op", "user_message", {}, keys=keys) for s in ("a", "b", "c")}
        async with RedisCluster.from_url(of(node.url, REDIS_READER)) as reader:
            for stream_id, event_id in ids.items():
                await wait_until_projected(
                    engine, stream_id, event_id, SECONDS, projection=strategies, redis=reader, keys=keys
                )
                assert len(await read_stream_messages(reader, stream_id, keys=keys)) == 1
        found = (await asyncio.to_thread(call, "check", env=env)).stdout
        assert "redis-right-missing" not in found
        assert "redis-unreachable" not in found
        env = worker_environment(of(guarded.url, OPERATOR), database_url, keys.prefix)
        for command in (("verify",), ("rebuild",), ("show", "a"), ("emit", "a", "user_message", "{}")):
            ended = await asyncio.to_thread(call, *command, env=env)
            assert ended.returncode == 0, ended.stdout + ended.stderr
        assert await asyncio.to_thread(worker.stop) == 0, worker.log
        assert "NoPermission" not in worker.log


def test_the_users_are_those_of_one_server_with_the_names_of_a_cluster() -> None:
    users = USERS_FILE.replace(" ~feed:*", " ~{feed}:*").replace(" ~worker:*", " ~{feed}worker:*")
    added = r" \+cluster\|slots \+asking( \+command)?"
    assert re.sub(added, "", CLUSTER_USERS_FILE) == users
    assert len(re.findall(added, CLUSTER_USERS_FILE)) == users.count(" -@all ")
