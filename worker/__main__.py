"""The command `projection-worker`, also as ``python -m worker``."""

from __future__ import annotations

import gc
import os
import sys

_NEW_OBJECTS, _YOUNG_COLLECTIONS, _MIDDLE_COLLECTIONS = 200_000, 20, 50


def main() -> None:
    """Run the command line. Ctrl-C ends it quietly, once this package itself has been imported."""
    try:
        from worker.cli import main as run_command_line

        find_modules_here()
        collect_garbage_seldom()
        run_command_line()
    except KeyboardInterrupt:
        sys.exit(130)


def find_modules_here() -> None:
    """Have WORKER_PROJECTIONS find modules in the working directory, too, after all that is installed."""
    here = os.getcwd()
    if not {"", here}.intersection(sys.path):
        sys.path.append(here)


def collect_garbage_seldom() -> None:
    """Have the collector look for cycles less often, and not among what was imported.

    A reply of Redis is lists of lists, all of them alive until they are folded: as Python sets it, every
    700 of them have the collector walk through what there is, which takes a third of a backlog's time.
    """
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _YOUNG_COLLECTIONS, _MIDDLE_COLLECTIONS)


if __name__ == "__main__":
    main()
