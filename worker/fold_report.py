"""What operators hear of folds: events that were rejected, remarked upon, or that a handler failed at."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import structlog

from worker.fold import Folded, Rejection
from worker.letters import Heeded
from worker.outcome import Tally
from worker.poison import place_of

log = structlog.get_logger("batches")

_MAX_REASON_CHARACTERS = 200


def report_fold(stream_id: str, folded: Folded, heeded: Heeded, tally: Tally) -> None:
    """Count and log what became of events; a failure that is known already is no news."""
    rejected = [rejection for rejection in folded.rejections if rejection.raised is None]
    passed = [rejection for rejection in folded.rejections if rejection.raised is not None]
    tally.events_rejected += len(rejected)
    tally.handler_failures += len(passed)
    tally.events_skipped += folded.skipped
    if rejected:
        _report_first("events_rejected", stream_id, rejected)
    if passed:
        _report_first("failed_events_passed", stream_id, passed)
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
            error=place_of(failure.error),
        )


def _report_first(what: str, stream_id: str, rejections: Sequence[Rejection]) -> None:
    first = rejections[0]
    log.warning(
        what,
        stream=stream_id,
        events=len(rejections),
        event_id=str(first.event_id),
        type=first.type,
        reason=first.reason[:_MAX_REASON_CHARACTERS],
    )
