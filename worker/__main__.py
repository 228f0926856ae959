"""The command `projection-worker`, also as ``python -m worker``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Ctrl-C ends it quietly, once this package itself has been imported."""
    try:
        from worker.cli import main as run_command_line

        run_command_line()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
