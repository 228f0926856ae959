"""Which streams a pattern takes: one answer, whoever asks."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.stream_glob import StreamGlob

TEXT = st.text("ab*?[]!-é\n", max_size=8)


@pytest.mark.parametrize(
    ("pattern", "taken", "left_out"),
    [
        ("*", ["", "a", "é\n"], []),
        ("eu-*", ["eu-", "eu-1", "eu-a:b"], ["us-1", "EU-1", "xeu-1"]),
        ("chat-?", ["chat-1", "chat-é"], ["chat-", "chat-12"]),
        ("[ab]-[0-9]", ["a-1", "b-9"], ["c-1", "a-x", "ab-1"]),
        ("[!a]*", ["b", "bc"], ["a", "ab"]),
        ("[*]", ["*"], ["a"]),
        ("a[b", ["a[b"], ["ab"]),
    ],
)
def test_a_pattern_takes_whole_ids(pattern: str, taken: list[str], left_out: list[str]) -> None:
    glob = StreamGlob(pattern)
    assert [s for s in [*taken, *left_out] if glob.covers(s)] == taken
    assert [s for s in [*taken, *left_out] if glob.covers_raw(s.encode())] == taken


def test_an_id_that_is_not_utf8_is_for_somebody_to_tell_of() -> None:
    assert StreamGlob("eu-*").covers_raw(b"\xff")


@given(pattern=TEXT.filter(lambda text: bool(text) and text.isprintable()), stream_id=TEXT)
def test_scanning_misses_no_stream_that_the_pattern_takes(pattern: str, stream_id: str) -> None:
    glob = StreamGlob(pattern)
    scanned = glob.redis_pattern("app[1]:")
    # With only '*' left, and all else escaped, both languages say the same.
    python = scanned.replace("\\[", "\0").replace("\\]", "]").replace("\\*", "[*]").replace("\\?", "[?]")
    if glob.covers(stream_id):
        assert fnmatchcase(f"app[1]:{stream_id}", python.replace("\0", "[[]"))
