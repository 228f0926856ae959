"""The status page in a real browser; see `tests.page.__main__`."""
