"""What a demo can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """`seconds` is how long conversations are simulated; starting, catching up and comparing come on top.

    `seed` fixes what is said in the conversations, though not how they interleave. Without `data_dir` nothing
    is kept.
    """

    replicas: int = 2
    chats: int = 40
    seconds: float = 15
    events_per_second: float = 1_500
    kill: bool = False
    data_dir: Path | None = None
    seed: int = 1
