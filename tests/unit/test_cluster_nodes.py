"""What connections to the nodes of a cluster are made of; nothing is sent."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import ConnectionError

from worker import Keys
from worker.address import Address
from worker.cluster_client import HomePool
from worker.redis_client import make_client
from worker.sending import NotSentError


@pytest.mark.parametrize(("scheme", "kind"), [("redis", Connection), ("rediss", SSLConnection)])
async def test_each_node_is_reached_as_the_url_says(scheme: str, kind: type[Connection]) -> None:
    tls = "&ssl_cert_reqs=none" if scheme == "rediss" else ""
    client = make_client(f"{scheme}+cluster://me:secret@one:7000,[::1]?protocol=3{tls}", Keys("app:"))
    home = client.connection_pool
    assert isinstance(home, HomePool)
    assert home.home == "{app:feed}:partitions"
    for address in (Address("one", 7000), Address("::1", 6379), Address("found-later", 1)):
        pool = home.cluster.nodes.pool(address)
        assert pool is not None
        connection = pool.make_connection()
        assert type(connection) is kind
        assert Address(connection.host, connection.port) == address
        assert (connection.username, connection.password, connection.protocol) == ("me", "secret", 3)
        assert connection.retry.get_retries() == 0
    await client.aclose()


async def test_nodes_that_are_all_away_are_told_of() -> None:
    client = make_client("redis+cluster://127.0.0.1:1,127.0.0.1:2")
    with pytest.raises(ConnectionError) as told:
        await client.ping()
    assert not isinstance(told.value, NotSentError)
    await client.aclose()
