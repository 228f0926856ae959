"""The command ``python -m worker``, without the messages that tell which streams have moved."""

from __future__ import annotations

from worker import aftermath
from worker.__main__ import main

if __name__ == "__main__":
    aftermath._TOLD_OF = frozenset()
    main()
