"""A projection on the real table whose handler never returns."""

from __future__ import annotations

import time

from projections.models import StreamProjection
from worker import Event, Projection

strategies = Projection("strategies", table=StreamProjection)


@strategies.on("user_message")
def sleep_for_ever(row: StreamProjection, event: Event) -> None:
    while True:
        time.sleep(3600)
