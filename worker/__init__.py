"""projection-worker: keeps PostgreSQL read models in step with event logs in Redis Streams.

(map to be written)
"""

from worker.emit import emit
from worker.errors import ClaimRaceError, ProjectionWorkerError, RejectedEventError
from worker.events import Event, EventId
from worker.keys import Keys
from worker.projection import (
    CrossStreamRule,
    ProjectedRow,
    Projection,
    RuleTransaction,
    RuleWrite,
)
from worker.row import Remark

__all__ = [
    "ClaimRaceError",
    "CrossStreamRule",
    "Event",
    "EventId",
    "Keys",
    "ProjectedRow",
    "Projection",
    "ProjectionWorkerError",
    "RejectedEventError",
    "Remark",
    "RuleTransaction",
    "RuleWrite",
    "emit",
]
