"""Addresses as a setting names them."""

from __future__ import annotations

import pytest

from worker.address import Address, parse_address
from worker.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", Address("127.0.0.1", 9464)),
        ("localhost:0", Address("localhost", 0)),
        ("[::]:65535", Address("::", 65535)),
        ("[fe80::1]:80", Address("fe80::1", 80)),
    ],
)
def test_an_address_is_read_and_written(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


def test_nothing_is_no_address() -> None:
    assert parse_address("") is None


@pytest.mark.parametrize("text", ["localhost", ":9464", "9464", "::1:80", "[::1]", "a b:1", "[host]:1", " "])
def test_what_is_no_address_is_refused_with_examples(text: str) -> None:
    with pytest.raises(SettingsError, match=r"it is no address; write host and port, such as 127\.0\.0\.1"):
        parse_address(text)


@pytest.mark.parametrize("text", ["h:", "h:http", "h:-1", "h:65536", "h:1.5", "h:٣"])
def test_a_port_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="its port is no number up to 65535"):
        parse_address(text)
