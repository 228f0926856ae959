"""The command ``python -m worker``, which says at its end how often it has called a handler."""

from __future__ import annotations

import sys

from projections import strategies
from tests.handler_calls import handler_calls
from worker.__main__ import main

SAYS = "handler calls: "

if __name__ == "__main__":
    with handler_calls(strategies) as calls:
        try:
            main()
        finally:
            sys.stdout.write(f"{SAYS}{calls.number}\n")
