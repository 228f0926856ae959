"""What operators hear of folds: events that were rejected, remarked upon, or that a handler failed at."""

from __future__ import annotations

import logging
import traceback

import structlog

from worker.fold import Folded
from worker.letters import Heeded
from worker.outcome import Tally

log = structlog.get_logger(__name__)

_MAX_REASON_CHARACTERS = 200


def report_fold(stream_id: str, folded: Folded, heeded: Heeded, tally: Tally) -> None:
    """Count and log what became of events; a failure that is known already is no news."""
    tally.events_rejected += len(folded.rejections)
    tally.events_skipped += folded.skipped
    if folded.rejections:
        first = folded.rejections[0]
        log.warning(
            "events_rejected",
            stream=stream_id,
            events=len(folded.rejections),
            event_id=str(first.event_id),
            type=first.type,
            reason=first.reason[:_MAX_REASON_CHARACTERS],
        )
    tally.remarks += len(folded.remarks)
    for remark in folded.remarks:
        log.warning(remark.what, stream=stream_id, event_id=str(remark.event_id), reason=remark.reason)
    if failure := folded.failure:
        tally.handler_failures += 1
        again = heeded.open is not None and heeded.open.event_id == failure.event_id
        log.log(
            logging.DEBUG if again else logging.ERROR,
            "handler_failed",
            stream=stream_id,
            event_id=str(failure.event_id),
            type=failure.type,
            error=_place_of(failure.error),
        )


def _place_of(error: Exception) -> str:
    """What was raised, and where. Its text may quote the payload; the dead letter has all of it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.name}, line {frame.lineno} of {frame.filename}"
