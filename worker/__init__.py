"""projection-worker: keeps PostgreSQL read models in step with event logs in Redis Streams.

The way of an event
===================

::

    producer   emit ─── XADD stream:{id} ──────────── the log: the truth
                 └───── XADD feed:{p} ─────────────── a hint: "stream id has news"
    replica    feed ─── XREADGROUP ────────────────── which streams have news?
               pending ────────────────────────────── each stream once, in batches
               projector ─ load rows, read logs ───── what is the news? the log says, in order
                  └─ fold ─────────────────────────── in memory, pure
               store ───── one transaction ────────── written if the row still is the one loaded
               feed ─── XACK ──────────────────────── only after the commit
               sweep ──────────────────────────────── finds what no hint told

The parts
=========

======================  ==========================================================================
`events`, `hint`        event ids, events, hints; raw replies of Redis become these and go no further
`payload`               JSON between a log's bytes and jsonb
`row`, `fold`           rows as handlers see them; events in, changed row out
`projection`, `rule`    what authors declare; rules that reach across streams
`keys`                  the names of all keys in Redis, and feed partitions
`emit`                  producers' side; `batch_emit` for many events from a file
`attempt`, `sending`    what is to be appended; commands that are sent once
`settle`                finds out what became of an attempt whose reply was lost
`log`, `feed`           reading logs; this replica's place in the consumer group
`feed_upkeep`           the feed kept in order: what dead and slow replicas had in hand, trimming
`leases`, `handover`    which replicas are alive and read which partitions; how these change hands
`table`, `store`        statements on rows; transactions that load and write them
`cache`                 hot rows in memory
`letters`, `blocked`    dead letters: events that could not be applied; streams that stand before one
`dead_letters`          what operators do with them: look, retry, skip; `inspection` of a single one
`pending`               the queue between readers and projector
`projector`, `outcome`  load, read, fold, write: one batch of streams; what may become of a stream
`isolation`             splits a batch until what PostgreSQL refuses, or what kills workers, is alone
`suspects`, `deaths`    streams in whose company replicas have died; which replicas that were
`aftermath`             who must hear of a stream after a pass, and whether it must rest
`diverged`              streams whose log no longer holds their row's position
`projected`, `watcher`  waiting for one's own write; the one who looks for all who wait
`awaited`, `standing`   one event that is waited for; where its row and its log stand
`moved`                 the message, after a commit, that wakes those who wait
`sweep`, `unusable`     compares logs with rows; counts keys that cannot be projected
`trouble`, `retry`      what an error means; going on when servers are away
`health`, `readiness`   what is wrong at present; whether the database is as it should be
`watchdog`              ends the process when a handler never returns
`waiting`               waits that end at a stop; `fault_points` where tests make something happen
`service`               the loop of one projection
`replicas`, `status`    what replicas tell of themselves, and what `status` makes of it
`verify`                rows as they should be, and how they differ
`settings`, `database`  the environment; URLs and the engine
`migrate`, `loading`    the schema; finding projections by name
`app`                   the one place where parts are wired together
`cli`                   commands: parse, call, print, on a `terminal`; `dead_letters_cli` and its `_work`,
                        `_screen` and `letter_choice`; `demo` and `embedded` for trying things out
======================  ==========================================================================

What never happens
==================

- A row is never written unless it still has the position, generation and version that it was loaded with.
- A position never changes without its row, nor a row without its position: one transaction moves both.
- A hint is never acknowledged before the commit of a pass that took it before reading the log.
- No event waits for ever because its hint was lost: the sweep compares logs with rows.
- A row whose log has lost its tail is never overwritten.
- Nothing rests on clocks, leases, consumer names or the state of the group: they only save work.
- An event of a type without handler never costs a query or a JSON decode.
"""

from worker.emit import emit, emit_again
from worker.errors import (
    ClaimRaceError,
    EmitError,
    InvalidEventError,
    NotProjectedError,
    OutcomeUnknownError,
    ProjectionTimeoutError,
    ProjectionWorkerError,
    RejectedEventError,
    StreamBlockedError,
    StreamDivergedError,
)
from worker.events import Event, EventId
from worker.keys import Keys
from worker.projected import wait_until_projected
from worker.projection import ProjectedRow, Projection
from worker.row import Remark
from worker.rule import CrossStreamRule, RuleTransaction, RuleWrite

__all__ = [
    "ClaimRaceError",
    "CrossStreamRule",
    "EmitError",
    "Event",
    "EventId",
    "InvalidEventError",
    "Keys",
    "NotProjectedError",
    "OutcomeUnknownError",
    "ProjectedRow",
    "Projection",
    "ProjectionTimeoutError",
    "ProjectionWorkerError",
    "RejectedEventError",
    "Remark",
    "RuleTransaction",
    "RuleWrite",
    "StreamBlockedError",
    "StreamDivergedError",
    "emit",
    "emit_again",
    "wait_until_projected",
]
