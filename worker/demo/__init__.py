"""The commands `demo` and `dev`: everything on one machine, with servers that come out of wheels.

`demo` lets replicas, as real processes, project simulated conversations, kills some of them if told to, and
proves at the end that every row is right. `dev` starts the same servers and one worker, and nothing else.
"""

from worker.demo.demo import run_demo
from worker.demo.dev import run_dev
from worker.demo.options import DemoOptions

__all__ = ["DemoOptions", "run_demo", "run_dev"]
