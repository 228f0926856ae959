"""The watchdog: ends the process when a handler never returns.

A handler that runs for ever freezes the event loop, and with it everything that could notice. So the kernel
watches: the loop keeps winding up a timer of the process's CPU time. Where that runs down, SIGPROF ends the
process, after the traceback was written to standard error. No Python code has to run for that, so it works
while a C function, such as a regular expression, holds the interpreter, too. It counts CPU time, so that a
process that was frozen or starved is not ended for it.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

_STANDARD_ERROR = 2
_WIND_UP_SECONDS = 1.0


@asynccontextmanager
async def watchdog(stuck: timedelta) -> AsyncIterator[None]:
    """While the block lasts, the process ends if the running loop is stuck for so much CPU time.

    The time counts for all threads of the process. Child processes are not watched.
    """
    faulthandler.register(signal.SIGPROF, file=_STANDARD_ERROR, all_threads=True, chain=True)
    winding = asyncio.create_task(_keep_winding_up(stuck))
    try:
        yield
    finally:
        winding.cancel()
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.unregister(signal.SIGPROF)


async def _keep_winding_up(stuck: timedelta) -> None:
    while True:
        signal.setitimer(signal.ITIMER_PROF, stuck.total_seconds())
        await asyncio.sleep(_WIND_UP_SECONDS)
