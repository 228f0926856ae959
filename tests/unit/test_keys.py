"""Names of keys, and which feed partition carries a stream's hints: other languages compute the same."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import Keys
from worker.cluster import slot_of


def crc32(data: bytes) -> int:
    """The CRC as its definition has it, bit by bit."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0xEDB88320 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("stream_id", "crc"),
    [
        ("", 0),
        ("a", 3_904_355_907),
        ("hello", 907_060_870),
        ("123456789", 3_421_780_262),
        ("The quick brown fox jumps over the lazy dog", 1_095_738_169),
        ("é", zlib.crc32(b"\xc3\xa9")),
        ("\U0001f9ec", zlib.crc32(b"\xf0\x9f\xa7\xac")),
    ],
)
def test_the_partition_is_the_crc_of_the_utf8_bytes_modulo_partitions(stream_id: str, crc: int) -> None:
    assert crc32(stream_id.encode()) == crc
    assert Keys(partitions=2**32).partition(stream_id) == crc
    assert Keys().partition(stream_id) == crc % 8
    assert Keys(partitions=7).partition(stream_id) == crc % 7


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 1024))
def test_every_stream_has_a_partition(stream_id: str, partitions: int) -> None:
    assert Keys(partitions=partitions).partition(stream_id) == crc32(stream_id.encode()) % partitions


def test_the_prefix_stands_before_every_key() -> None:
    keys = Keys("app:")
    assert keys.log("a:b") == "app:stream:a:b"
    assert keys.feed(3) == "app:feed:3"
    assert keys.log("x").startswith(keys.log_prefix)
    others = [keys.feed_partitions, keys.replicas("p"), keys.sweep_lease("p"), keys.sweep_report("p")]
    others += [keys.live_replicas("p"), keys.leases("p"), keys.given("p")]
    assert all(name.startswith("app:") for name in others)
    assert not any(name.startswith(keys.log_prefix) for name in [*others, keys.feed(0)])


def own_names(keys: Keys) -> list[str]:
    """All keys but logs."""
    of_projection = (
        keys.replicas, keys.in_flight, keys.suspects, keys.diverged, keys.live_replicas, keys.leases,
        keys.versions, keys.given, keys.sweep_lease, keys.sweep_report,
    )  # fmt: skip
    return [*map(keys.feed, range(8)), keys.feed_partitions, *(name("p") for name in of_projection)]


@pytest.mark.parametrize("prefix", ["", "app:", "a b*"])
def test_on_a_cluster_all_keys_but_logs_lie_in_one_slot(prefix: str) -> None:
    one_server, cluster = Keys(prefix), Keys(prefix, on_cluster=True)
    assert cluster.log("x") == one_server.log("x")
    assert cluster.moved("p") == one_server.moved("p")
    assert len({slot_of(name) for name in own_names(cluster)}) == 1
    assert len({slot_of(name) for name in own_names(one_server)}) > 1
    assert len({slot_of(cluster.log(f"s{number}")) for number in range(20)}) > 10
    assert not {*own_names(cluster)} & {*own_names(one_server)}


def test_on_a_cluster_what_names_have_in_common_stands_in_braces() -> None:
    assert Keys(on_cluster=True).feed(3) == "{feed}:3"
    assert Keys("app:", on_cluster=True).feed(3) == "{app:feed}:3"
    assert Keys("app:", on_cluster=True).leases("p") == "{app:feed}worker:p:leases"
    assert Keys("app:").feed_partitions_otherwise == "{app:feed}:partitions"
    assert Keys("app:", on_cluster=True).feed_partitions_otherwise == "app:feed:partitions"


@pytest.mark.parametrize("prefix", ["{app}:", "{", "a}"])
def test_a_prefix_with_braces_is_refused_on_a_cluster_alone(prefix: str) -> None:
    assert Keys(prefix).feed(0) == f"{prefix}feed:0"
    with pytest.raises(ValueError, match="one node"):
        Keys(prefix, on_cluster=True)


def test_the_prefix_does_not_move_a_stream_to_another_partition() -> None:
    assert Keys("app:").partition("hello") == Keys().partition("hello") == 6
