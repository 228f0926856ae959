"""Names of keys, and which feed partition carries a stream's hints: other languages compute the same."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import Keys


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


def test_the_prefix_does_not_move_a_stream_to_another_partition() -> None:
    assert Keys("app:").partition("hello") == Keys().partition("hello") == 6
