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
`children`              child rows: what handlers do to them, and what that comes to; `child_declaration`
`row`, `fold`           rows as handlers see them; events in, changed row out
`projection`, `rule`    what authors declare; rules that reach across streams
`declaration`           mistakes in declarations, in a sentence each; `signature` is what handlers take
`typed`, `misfit`       payloads as the models that handlers ask for, and why one does not fit
`upcasting`, `poison`   old payloads made new; what becomes of events whose handler raises
`keys`, `stream_glob`   the names of all keys in Redis, and feed partitions; which streams a projection takes
`emit`                  producers' side; `batch_emit` for many events from a file
`attempt`, `sending`    what is to be appended; commands that are sent once
`agreement`             producers and workers that must look for the feed in the same place
`settle`                finds out what became of an attempt whose reply was lost
`log`, `log_scan`       reading logs; looking over all of them; `extent` is how far one reaches
`feed`                  this replica's place in the consumer group
`feed_backlog`          how much waits in the feed, and for how long
`skim`                  deep backlogs of hints passed over as a whole, once their streams are projected
`feed_upkeep`           the feed kept in order: what dead and slow replicas had in hand, trimming
`hinting`               hints that no producer writes
`leases`, `handover`    which replicas are alive and read which partitions; how these change hands
`table`, `store`        statements on rows; transactions that load and write them
`child_statements`      the same for child rows; `row_arrays` is how rows travel as parameters
`cache`                 hot rows in memory
`letters`, `blocked`    dead letters: events that could not be applied; streams that stand before one
`dead_letters`          what operators do with them: look, retry, skip; `inspection` of a single one
`pending`               the queue between readers and projector
`projector`, `outcome`  load, read, fold, write: one batch of streams; what may become of a stream
`transaction`           transactions that write, and what each begins with
`settled`               what the sweep remembers of each log
`overlap`               reading, folding and writing at the same time
`known_streams`         what is remembered of streams between passes
`upgrade`               stale rows, of an older version: their logs folded anew, a page a pass
`batch_writer`          writes a batch although some of its rows cannot be written
`fold_report`           what operators hear of folds
`isolation`             splits a batch until what PostgreSQL refuses, or what kills workers, is alone
`suspects`, `deaths`    streams in whose company replicas have died; which replicas that were
`aftermath`             who must hear of a stream after a pass, and whether it must rest
`diverged`              streams whose log no longer holds their row's position
`projected`, `watcher`  waiting for one's own write; the one who looks for all who wait
`awaited`, `whereabouts` one event that is waited for; where its row and its log stand
`moved`                 the message, after a commit, that wakes those who wait
`sweep`, `sweep_lease`  compares logs with rows; one replica at a time
`unusable`              counts keys that cannot be projected
`trouble`, `retry`      what an error means, `tls` where TLS is the matter; going on when servers are away
`health`, `readiness`   what is wrong at present; whether the database is as it should be
`http`, `site`          the server of probes, metrics and status page; what is answered there; `address`
`insight`, `measures`   what a worker knows of itself and its projections; what its projecting measures
`metrics`, `exposition` what each metric means; all of them as Prometheus reads them
`overview`, `page`      what the status page shows, as data; its files
`log_levels`, `logconfig` which log lines are shown, part by part; how they look
`lag_line`              the one a minute that tells how far behind a projection is
`traceparent`           which trace an event was emitted in
`tracing`, `batch_spans` whether traces are exported; a span for each batch
`watchdog`              ends the process when a handler never returns
`service_manager`       what systemd is told
`waiting`               waits that end at a stop; `fault_points` where tests make something happen
`service`               the loop of one projection
`replicas`, `status`    what replicas tell of themselves, and what `status` makes of it
`replay`                logs folded from their start, in memory
`rebuild`, `judgement`  rows replaced by the fold of their logs; which may not be; `preview` of that
`campaign`, `scope`     rebuilds of many streams: in chunks that processes share; which streams those are
`campaign_work`         one process's part in that; `courtesy` keeps it out of the way of live projection
`dry_run`               what a rebuild would change
`verify`, `finding`     are rows what their logs say? `snapshot` and `folds` are what is compared
`survey`, `sample`      verify over a whole table, or a share of it; by a worker, a few rows all the time
`difference`, `origin`  how two rows differ, and since which event; `comparison` of whole tables at rest
`past`, `retelling`     a row as it was at any event, and every change on the way
`moments`, `changes`    points in time as people name them; what changed between two rows
`slowest`               which streams are furthest behind
`standing`, `lag`       how one stream stands; how many events wait behind a place in its log
`show`                  the same for applications; `application` what their engines and clients need
`check`                 what is wrong with servers, rights, tables and settings, before a worker finds out
`settings`, `database`  the environment; URLs and the engine; `certificates` for TLS
`redis_url`             what REDIS_URL names; `redis_client` connects there, through `sentinel` to a master
`log_servers`           where logs are: on the feed's server, or spread over a cluster; `scan_steps` of one
`cluster`               commands on their way to its nodes; `cluster_nodes` who serves what; `cluster_client`
                        the client of the node that has the feed
`migrate`, `branches`   the schema, ours and that of projections modules; `revision` writes the next of these
`loading`               finding projections by name
`app`, `running`        the one place where parts are wired together; a worker from its start to its stop
`cli`                   commands: parse `arguments`, call, print, on a `terminal`; `dead_letters_cli` and its
                        `_work`, `_screen` and `letter_choice`; `verify_cli` likewise; `show_cli` and its
                        `_work`, `_screen`, `_json` and `advice`; `rebuild_cli` and its `_reach`, `_work`,
                        `_dry_run` and `_screen`, with `prune_work`; `progress` of both; `search_cli`;
                        `check_cli` and its `_screen`; `status_cli` with `status_screen` and `slowest_screen`;
                        `demo` and `embedded` for trying things out
`testing`               the test kit: events and rows in memory, `purity` of handlers, the law of `replay`,
                        a `world` on real servers and its `faults`; a pytest `plugin`
======================  ==========================================================================

What never happens
==================

- A row is never written unless it still has the position, generation and version that it was loaded with.
- A position never changes without its row, nor a row without its position: one transaction moves both.
- A hint is never acknowledged before the commit of a pass that took it before reading the log.
- No event waits for ever because its hint was lost: the sweep compares logs with rows.
- A row whose log has lost something is never overwritten, unless somebody accepts the loss.
- A reader never sees a row that is rebuilt halfway: the fold of the whole log takes its place in one step.
- A replica never writes a row that a newer version of the projection has written. It folds nothing onto a row
  of an older version, but where the log has lost its beginning.
- Nothing rests on clocks, leases, consumer names or the state of the group: they only save work.
- A stream that a projection's ``streams`` do not match is never projected, whoever asks.
- What is wrong with the tables of one projection never keeps another from going on.
- An event of a type without handler never costs a query or a JSON decode.
"""

from worker.children import ChildRows
from worker.cluster_client import AnyRedis
from worker.emit import emit, emit_again
from worker.errors import (
    ClaimRaceError,
    EmitError,
    InvalidEventError,
    NotProjectedError,
    OutcomeUnknownError,
    PastLostError,
    ProjectionTimeoutError,
    ProjectionWorkerError,
    RejectedEventError,
    StreamBlockedError,
    StreamDivergedError,
    StreamLeftOutError,
)
from worker.events import Event, EventId
from worker.finding import Finding, Obstacle
from worker.judgement import Refusal
from worker.keys import Keys
from worker.moments import parse_moment
from worker.past import PastRow, row_changes
from worker.projected import wait_until_projected
from worker.projection import ProjectedRow, Projection
from worker.rebuild import Rebuilt, rebuild_streams
from worker.retelling import HistoryEntry
from worker.row import Remark
from worker.rule import CrossStreamRule, RuleReader, RuleTransaction, RuleWrite, StoredFacts
from worker.show import history, row_at, show_stream
from worker.standing import Standing, StreamView
from worker.verify import verify_streams

__all__ = [
    "AnyRedis",
    "ChildRows",
    "ClaimRaceError",
    "CrossStreamRule",
    "EmitError",
    "Event",
    "EventId",
    "Finding",
    "HistoryEntry",
    "InvalidEventError",
    "Keys",
    "NotProjectedError",
    "Obstacle",
    "OutcomeUnknownError",
    "PastLostError",
    "PastRow",
    "ProjectedRow",
    "Projection",
    "ProjectionTimeoutError",
    "ProjectionWorkerError",
    "Rebuilt",
    "Refusal",
    "RejectedEventError",
    "Remark",
    "RuleReader",
    "RuleTransaction",
    "RuleWrite",
    "Standing",
    "StoredFacts",
    "StreamBlockedError",
    "StreamDivergedError",
    "StreamLeftOutError",
    "StreamView",
    "emit",
    "emit_again",
    "history",
    "parse_moment",
    "rebuild_streams",
    "row_at",
    "row_changes",
    "show_stream",
    "verify_streams",
    "wait_until_projected",
]
