"""URLs of Redis: what they name, and a sentence, which never shows a password, where they name nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from worker.address import Address
from worker.errors import SettingsError
from worker.redis_url import ClusterNodes, Sentinels, Server, parse_redis_url


def sentinels(url: str) -> Sentinels:
    found = parse_redis_url(url)
    assert isinstance(found, Sentinels)
    return found


def nodes(url: str) -> ClusterNodes:
    found = parse_redis_url(url)
    assert isinstance(found, ClusterNodes)
    return found


def refusal(url: str) -> str:
    """What is said of the URL, which is a sentence, and shows nothing that may be a secret."""
    with pytest.raises(SettingsError) as caught:
        parse_redis_url(url)
    sentence = str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert sentence.startswith("REDIS_URL ")
    assert sentence.endswith(".")
    for secret in ("hunter", "ter2", "s3cret"):
        assert secret not in sentence
    return sentence


# One server.


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://", {}),
        ("redis://localhost", {"host": "localhost"}),
        ("redis://localhost/", {"host": "localhost"}),
        ("redis://localhost:6380/2", {"host": "localhost", "port": 6380, "db": 2}),
        ("redis://[::1]:6380", {"host": "::1", "port": 6380}),
        ("redis://:p%40s%2Fs@localhost", {"password": "p@s/s", "host": "localhost"}),
        ("redis://:p@ss@localhost", {"password": "p@ss", "host": "localhost"}),
        ("redis://user:hunter2@localhost", {"username": "user", "password": "hunter2", "host": "localhost"}),
        (
            "redis://localhost?protocol=3&client_name=worker&db=1",
            {"host": "localhost", "protocol": 3, "client_name": "worker", "db": 1},
        ),
        (
            "rediss://localhost?ssl_cert_reqs=none&ssl_check_hostname=false",
            {
                "connection_class": SSLConnection,
                "host": "localhost",
                "ssl_cert_reqs": "none",
                "ssl_check_hostname": False,
            },
        ),
        (
            "unix://:hunter2@/run/redis.sock?db=2",
            {
                "connection_class": UnixDomainSocketConnection,
                "path": "/run/redis.sock",
                "password": "hunter2",
                "db": 2,
            },
        ),
    ],
)
def test_one_server(url: str, options: dict[str, object]) -> None:
    assert parse_redis_url(url) == Server(options)


# Sentinels.


def test_sentinels_and_the_service_that_they_monitor() -> None:
    assert sentinels("redis+sentinel://one:26379,two:26380/orders") == Sentinels(
        (Address("one", 26379), Address("two", 26380)), "orders", tls=False, options={}, sentinel_options={}
    )


def test_sentinels_have_a_port_of_their_own() -> None:
    assert sentinels("redis+sentinel://one,two:1/orders").addresses == (
        Address("one", 26379),
        Address("two", 1),
    )


def test_sentinels_at_addresses_of_ipv6() -> None:
    found = sentinels("redis+sentinel://[::1],[2001:DB8::2]:26380,10.0.0.1:1,[::3]/orders")
    assert found.addresses == (
        Address("::1", 26379),
        Address("2001:db8::2", 26380),
        Address("10.0.0.1", 1),
        Address("::3", 26379),
    )


@pytest.mark.parametrize(
    ("rest", "db"),
    [("orders", None), ("orders/", None), ("orders/0", 0), ("orders/3", 3), ("orders/?db=2", 2)],
)
def test_a_db_behind_the_service(rest: str, db: int | None) -> None:
    found = sentinels(f"redis+sentinel://one/{rest}")
    assert (found.service, found.options.get("db")) == ("orders", db)


def test_a_name_of_a_service_that_is_percent_encoded() -> None:
    assert sentinels("redis+sentinel://one/my%2Fmaster/1").service == "my/master"


def test_servers_and_sentinels_have_accounts_of_their_own() -> None:
    found = sentinels(
        "redis+sentinel://user:p%40s%2Fs%3Fx@one,two/orders"
        "?sentinel_username=watch&sentinel_password=s3cret%26@x&client_name=worker&protocol=3"
    )
    assert found.options == {
        "username": "user",
        "password": "p@s/s?x",
        "client_name": "worker",
        "protocol": 3,
    }
    assert found.sentinel_options == {"username": "watch", "password": "s3cret&@x"}


def test_sentinels_by_tls_are_connected_to_like_servers(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    found = sentinels(
        f"rediss+sentinel://:hunter2@one/orders?ssl_ca_certs={authority}&ssl_check_hostname=false"
        "&sentinel_password=s3cret"
    )
    tls = {"ssl_ca_certs": str(authority), "ssl_check_hostname": False}
    assert found.tls
    assert found.options == {"password": "hunter2", **tls}
    assert found.sentinel_options == {"password": "s3cret", **tls}


# Nodes of a cluster.


def test_nodes_of_a_cluster() -> None:
    assert nodes("redis+cluster://user:hunt%40er@one:7000,[::1],two/0?protocol=3") == ClusterNodes(
        (Address("one", 7000), Address("::1", 6379), Address("two", 6379)),
        tls=False,
        options={"username": "user", "password": "hunt@er", "protocol": 3},
    )


@pytest.mark.parametrize("rest", ["", "/", "/0", "?db=0"])
def test_a_cluster_has_one_db(rest: str) -> None:
    assert nodes(f"redis+cluster://one:7000{rest}").options == {}


def test_a_cluster_by_tls() -> None:
    found = nodes("rediss+cluster://one:7000?ssl_cert_reqs=none")
    assert (found.tls, found.options) == (True, {"ssl_cert_reqs": "none"})


# What is refused.


SCHEMES = ("redis", "redis+sentinel", "redis+cluster")
WRONG = {
    "{}": ["", "localhost", "http://localhost", "redis:/localhost", " redis://x", "REDIS://x", "://"],
    "{}://:hunter2@one/orders": ["sentinel", "redis-sentinel", "redis+x", "http+sentinel", ""],
    "redis://:hunter2@one{}": [":port", ":65536", "/zero", "/-1", "/0/1", "?db=x", "?db=-1", "#x", ",two"],
    "redis://{}": [":hunter2@[::1", "[hunter2:x@one/0", ":123?ter2=x@one/0"],
    "unix://:hunter2@/run/redis.sock{}": ["?db=x", "?db=-1", "#x"],
    "redis+sentinel://:hunter2@{}/orders": ["", "one,", ",one", "one,,two", "one two", "one;two", "one, two"],
    "rediss+sentinel://:hunter2@one{}/orders": [":", ":x", ":0", ":65536", ":-1", ":123456"],
    "redis+sentinel://:hunter2@{}:1/orders": ["::1", "[::1", "[one]", "[]", "[1.2.3.4]", "[::1]x"],
    "redis+sentinel://one/orders{}": ["/zero", "/-1", "/1/2", "?db=x", "?db=-1", "?protocol=x", "#x"],
    "redis+cluster://:hunter2@{}": ["", "/", "one,", "one:0", "one:x", "[::1", "::1", "one#x"],
    "{}://:hun/ter2@one/orders": SCHEMES,
    "{}://:hun?ter2=x@one/orders": SCHEMES,
    "{}://:hun#ter2@one/orders": SCHEMES,
}


@pytest.mark.parametrize("url", [form.format(part) for form, parts in WRONG.items() for part in parts])
def test_what_is_no_url_of_redis(url: str) -> None:
    assert "write it as redis" in refusal(url) or "write it as unix" in refusal(url)


@pytest.mark.parametrize("rest", ["", "/", "//", "?db=1", "//1"])
def test_sentinels_without_a_service(rest: str) -> None:
    assert "does not say which master it means" in refusal(f"redis+sentinel://:hunter2@one:26379{rest}")


def test_two_dbs_are_one_too_many() -> None:
    assert "says twice what db" in refusal("redis+sentinel://:hunter2@one/orders/1?db=2")


@pytest.mark.parametrize("rest", ["/1", "?db=1", "/orders", "/0/1", "/0?db=2"])
def test_a_db_of_a_cluster_that_is_not_0(rest: str) -> None:
    assert "has none but 0" in refusal(f"redis+cluster://:hunter2@one:7000{rest}")


@pytest.mark.parametrize("start", ["redis://one/0", "redis+sentinel://one/orders", "redis+cluster://one"])
@pytest.mark.parametrize("name", ["decode_responses", "socket_timeout", "x", "host"])
def test_a_parameter_that_is_not_understood_is_named(start: str, name: str) -> None:
    assert f"not understood: {name}." in refusal(f"{start}?{name}=1&client_name=a")


@pytest.mark.parametrize("start", ["redis://one/0", "rediss+cluster://one"])
def test_only_sentinels_have_an_account_of_sentinels(start: str) -> None:
    assert "not understood: sentinel_password, sentinel_username." in refusal(
        f"{start}?sentinel_username=watch&sentinel_password=s3cret"
    )


@pytest.mark.parametrize("start", ["redis://one/0", "redis+sentinel://one/orders", "redis+cluster://one"])
def test_there_are_two_protocols(start: str) -> None:
    assert "it may be 2 or 3" in refusal(f"{start}?protocol=4")


@pytest.mark.parametrize(
    ("start", "remedy"),
    [
        ("redis://one", "write rediss://"),
        ("unix:///run/redis.sock", "write rediss://"),
        ("redis+sentinel://one/orders", "write rediss+sentinel://"),
        ("redis+cluster://one", "write rediss+cluster://"),
    ],
)
def test_parameters_of_tls_without_tls(start: str, remedy: str) -> None:
    assert remedy in refusal(f"{start}?ssl_cert_reqs=none")


@pytest.mark.parametrize(
    "start",
    ["rediss://:hunter2@one", "rediss+sentinel://:hunter2@one/orders", "rediss+cluster://:hunter2@one"],
)
@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ("ssl_x=1", "not understood: ssl_x."),
        ("ssl_cert_reqs=x", "wrong ssl_cert_reqs"),
        ("ssl_ca_certs=/nowhere", "cannot be read"),
        ("ssl_ca_certs=/etc/hosts", "no certificates and keys in PEM"),
    ],
)
def test_wrong_parameters_of_tls(start: str, parameter: str, said: str) -> None:
    assert said in refusal(f"{start}?{parameter}")


def test_what_was_understood_does_not_show_its_passwords() -> None:
    shown = repr(
        (
            parse_redis_url("redis://:hunter2@one"),
            parse_redis_url("redis+sentinel://:hunter2@one/orders?sentinel_password=s3cret"),
            parse_redis_url("redis+cluster://:hunter2@one"),
        )
    )
    assert "hunter2" not in shown
    assert "s3cret" not in shown
