"""The message that wakes those who wait for a stream."""

from __future__ import annotations

import pytest

from worker.moved import MAX_MESSAGE_BYTES, read_moved, write_moved


@pytest.mark.parametrize("decode", [bytes, bytes.decode])
def test_a_message_names_the_streams_that_moved(decode: type[bytes]) -> None:
    assert read_moved(decode(write_moved(["a", 'quoted "b"', "ü"]))) == ["a", 'quoted "b"', "ü"]


@pytest.mark.parametrize("letter", ["a", "ü", '"', "\x01"])
def test_a_message_never_gets_too_long_and_then_names_no_stream(letter: str) -> None:
    message = write_moved([f"{letter * 250}{number}" for number in range(5_000)])
    assert len(message) <= MAX_MESSAGE_BYTES
    assert read_moved(message) is None
    almost = write_moved([letter * 10] * 3_000)
    assert len(almost) <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize("message", [b"", b"nonsense", b"{}", b"7", b"[1]", b"[[]]", b"\xff", "nonsense"])
def test_a_message_of_somebody_else_says_that_any_stream_may_have_moved(message: bytes | str) -> None:
    assert read_moved(message) is None
