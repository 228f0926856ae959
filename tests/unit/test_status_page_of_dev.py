"""Where `dev` says that its status page is: where the worker will show it."""

from __future__ import annotations

import socket
from contextlib import ExitStack, closing, suppress

import pytest

from worker.demo.status_page import choose_status_page

DEFAULT = ("127.0.0.1", 9464)


def test_where_the_default_address_is_taken_the_worker_gets_a_free_port() -> None:
    with ExitStack() as stack:
        with suppress(OSError):  # Somebody else has it: as well.
            stack.enter_context(closing(socket.create_server(DEFAULT)))
        taken = choose_status_page({})
        address = taken.variables["WORKER_HTTP_ADDRESS"]
        assert taken.url == f"http://{address}/"
        assert not address.endswith((":9464", ":0"))
        socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))).close()


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000/"),
        ("0.0.0.0:8000", "http://127.0.0.1:8000/"),
        ("[::]:8000", "http://[::1]:8000/"),
        ("", None),
        ("127.0.0.1:0", None),
        ("nonsense", None),
    ],
)
def test_an_address_that_was_chosen_is_left_alone(address: str, url: str | None) -> None:
    page = choose_status_page({"WORKER_HTTP_ADDRESS": address})
    assert (page.variables, page.url) == ({}, url)
