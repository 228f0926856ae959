"""`projection-worker` whose leases live for a second: who dies or freezes is soon found dead.

Run as ``python -m tests.brief_leases run``. All replicas on a feed must agree on how long leases live.
"""

from __future__ import annotations

from datetime import timedelta

from worker import leases
from worker.__main__ import main


def shorten_leases() -> None:
    """From now on, in this process."""
    leases.LEASE_LIVES = timedelta(seconds=1)


if __name__ == "__main__":
    shorten_leases()
    main()
