"""`projection-worker run`, with brief leases, that is killed or frozen at a point of its work.

``python -m tests.faulty_worker SIGKILL committed 3`` sends itself the signal when it has reached the point
for the third time, so that nothing of its own can clean up.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count

from tests.brief_leases import shorten_leases
from worker.__main__ import main
from worker.fault_points import Point, arm


def run(signum: signal.Signals, point: Point, passes: int) -> None:
    """Run a worker until it gets there."""
    passed = count(1)

    def suffer() -> None:
        if next(passed) == passes:
            os.kill(os.getpid(), signum)

    arm(point, suffer)
    shorten_leases()
    sys.argv = [sys.argv[0], "run"]
    main()


if __name__ == "__main__":
    run(signal.Signals[sys.argv[1]], Point(sys.argv[2]), int(sys.argv[3]))
