"""The cache of hot rows: bounded in bytes, and only who puts a stream back keeps it there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.cache import KnownStream, RowCache, state_bytes
from worker.row import RawJson
from worker.table import Stamp, StoredRow

PLAIN = 700  # More than a row without text takes, less than two of them.


def known(text: str = "", read_to: str = "1-0") -> KnownStream:
    row = StoredRow(Stamp("1-0", 0, 1), "1-0", (text, 7, None, RawJson(text)))
    return KnownStream(row, read_to)


def test_a_stream_that_was_put_in_is_there_once() -> None:
    cache = RowCache(PLAIN)
    cache.put("a", known())
    assert cache.pop("a") == known()
    assert cache.pop("a") is None
    assert len(cache) == 0


def test_what_was_known_before_is_replaced() -> None:
    cache = RowCache(10 * PLAIN)
    for read_to in ("1-0", "2-0", "3-0"):
        cache.put("a", known(read_to=read_to))
    assert len(cache) == 1
    assert cache.pop("a") == known(read_to="3-0")


def test_streams_without_a_row_are_known_too() -> None:
    cache = RowCache(PLAIN)
    cache.put("a", KnownStream(None, "1-0"))
    assert cache.pop("a") == KnownStream(None, "1-0")


def test_the_stream_that_was_used_longest_ago_is_dropped_first() -> None:
    cache = RowCache(2 * PLAIN)
    cache.put("a", known())
    cache.put("b", known())
    again = cache.pop("a")
    assert again is not None
    cache.put("a", again)
    cache.put("c", known())
    assert [cache.pop(stream_id) is not None for stream_id in "abc"] == [True, False, True]


def test_large_rows_leave_less_room() -> None:
    cache = RowCache(4 * PLAIN)
    for stream_id in "abc":
        cache.put(stream_id, known())
    cache.put("large", known("x" * PLAIN))
    assert len(cache) == 2
    assert cache.pop("large") is not None


def test_a_row_larger_than_the_cache_is_not_kept() -> None:
    cache = RowCache(PLAIN)
    cache.put("a", known("x" * PLAIN))
    assert len(cache) == 0
    cache.put("b", known())
    assert len(cache) == 1


def test_a_cache_without_room_keeps_nothing() -> None:
    cache = RowCache(0)
    cache.put("a", KnownStream(None, "1-0"))
    assert cache.pop("a") is None


def test_the_size_of_a_row_is_that_of_its_text() -> None:
    row = known("x" * 100).row
    assert row is not None
    assert state_bytes(row) == 200


moves = st.lists(st.tuples(st.sampled_from(["put", "pop"]), st.sampled_from("abc"), st.integers(0, 2000)))


@given(moves, st.integers(0, 5000))
def test_room_that_was_taken_is_given_back(moves: list[tuple[str, str, int]], max_bytes: int) -> None:
    cache = RowCache(max_bytes)
    for move, stream_id, size in moves:
        if move == "put":
            cache.put(stream_id, known("x" * size))
        else:
            cache.pop(stream_id)
    for stream_id in "abc":
        cache.pop(stream_id)
    for number in range(20):
        cache.put(f"{number:02}", known())
    assert len(cache) == min(20, max_bytes // 602)
