"""`projection-worker run` that is killed at a chosen point: ``python -m tests.faulty_worker POINT PASSES``.

It sends itself SIGKILL when it reaches the point for the so manieth time, so that nothing of its own can
clean up.
"""

from __future__ import annotations

import os
import signal
import sys
from itertools import count

from worker.__main__ import main
from worker.fault_points import Point, arm


def run(point: Point, passes: int) -> None:
    """Run a worker until it gets there."""
    passed = count(1)

    def die() -> None:
        if next(passed) == passes:
            os.kill(os.getpid(), signal.SIGKILL)

    arm(point, die)
    sys.argv = [sys.argv[0], "run"]
    main()


if __name__ == "__main__":
    run(Point(sys.argv[1]), int(sys.argv[2]))
