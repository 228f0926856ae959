"""Every error that projection-worker raises on purpose.

::

    ProjectionWorkerError
    ├── SettingsError                 a setting is missing or wrong
    ├── DeclarationError              a projection is declared wrongly
    ├── RejectedEventError            raised by a handler: this event can never be applied
    ├── InvalidEventError             emit was given something no log may hold; nothing was appended
    ├── EmitError                     emit could not append; nothing was appended
    │   └── OutcomeUnknownError       ... or perhaps it was: the reply was lost
    ├── NotProjectedError             a wait ended although the event is not in its row
    │   ├── StreamBlockedError        ... because a dead letter stands in the way
    │   ├── StreamDivergedError       ... because the log does not hold the row's position
    │   ├── StreamLeftOutError        ... because the projection takes streams of other names only
    │   └── ProjectionTimeoutError    ... because the time is up
    ├── FeedPartitionsError           two parties disagree on the number of feed partitions
    ├── SchemaError                   the database schema is not the one this version needs
    ├── ClaimRaceError                another transaction changed claims first; reload and retry
    ├── NewerVersionError             rows of a newer version of the projection would change
    ├── ScopeError                    which streams are to be rebuilt is said wrongly
    ├── RebuildUnderWayError          another rebuild of the projection is not finished
    ├── LetterRefusedError            a dead letter is not there, or not open: nothing was done
    ├── PastLostError                 a log no longer holds the events that the answer rests on
    ├── EmbeddedServersMissingError   the wheels with the embedded servers are not installed
    ├── EmbeddedServerError           an embedded server did not start
    └── MissingExtraError             a package that an optional extra brings is not installed

Each message is a sentence that says what is wrong and what to do about it.
"""

from __future__ import annotations

from worker.attempt import Attempt


class ProjectionWorkerError(Exception):
    """The root of the tree above."""


class SettingsError(ProjectionWorkerError):
    """A setting is missing or wrong; the message names its variable."""


class DeclarationError(ProjectionWorkerError):
    """A projection is declared wrongly; raised when it is declared or loaded, never later."""


class RejectedEventError(ProjectionWorkerError):
    """A handler raises this for an event that can never be applied.

    The event then moves the row's position and time and nothing else, exactly like one whose data cannot
    be decoded, and the stream goes on. What the handler had changed before it raised is forgotten.
    """


class InvalidEventError(ProjectionWorkerError):
    """`emit` was given a stream id, type or data that no log may hold. Nothing was appended."""


class EmitError(ProjectionWorkerError):
    """`emit` could not append its event. Nothing was appended, so calling again is safe."""


class OutcomeUnknownError(EmitError):
    """`emit` sent its event but the reply was lost: it may stand in the log or not.

    With an operation id, the same call again settles it, and so does `emit_again`. Without one, look at the
    end of the log. ``attempt`` is what was to be appended.
    """

    def __init__(self, message: str, attempt: Attempt) -> None:
        super().__init__(message, attempt)
        self.attempt = attempt

    def __str__(self) -> str:
        return str(self.args[0])


class NotProjectedError(ProjectionWorkerError):
    """`wait_until_projected` has ended, and the event is not in its row.

    ``position`` is where the row stood when it was last looked at, None for a row without a position, for no
    row, and where nobody could look.
    """

    def __init__(self, message: str, stream_id: str, event_id: str, position: str | None) -> None:
        super().__init__(message, stream_id, event_id, position)
        self.stream_id = stream_id
        self.event_id = event_id
        self.position = position

    def __str__(self) -> str:
        return str(self.args[0])


class StreamBlockedError(NotProjectedError):
    """The stream is stopped at the event, or before it, until somebody helps.

    ``stopped_before`` is the event that could not be applied, ``reason`` that of its dead letter.
    """

    def __init__(
        self,
        message: str,
        stream_id: str,
        event_id: str,
        position: str | None,
        stopped_before: str,
        reason: str,
    ) -> None:
        super().__init__(message, stream_id, event_id, position)
        self.args = (message, stream_id, event_id, position, stopped_before, reason)
        self.stopped_before = stopped_before
        self.reason = reason


class StreamDivergedError(NotProjectedError):
    """The log does not hold the row's position any more, so that nothing is projected until a rebuild."""


class StreamLeftOutError(NotProjectedError):
    """The projection takes streams of other names only: the event is never projected."""


class ProjectionTimeoutError(NotProjectedError):
    """The event was not projected in time. It may be yet."""


class FeedPartitionsError(ProjectionWorkerError):
    """This process and the Redis server disagree on the number of feed partitions."""


class SchemaError(ProjectionWorkerError):
    """The database schema is not the one that this version needs."""


class ClaimRaceError(ProjectionWorkerError):
    """A transaction found that another one changed the claims it had prepared for; it must start again."""


class NewerVersionError(ProjectionWorkerError):
    """A write would change rows that a newer version of the projection has written. Nothing was written."""


class ScopeError(ProjectionWorkerError):
    """Which streams are to be rebuilt is said wrongly, such as by a condition that is no SQL."""


class RebuildUnderWayError(ProjectionWorkerError):
    """A rebuild of the same projection with another scope, or of another version, is not finished."""


class LetterRefusedError(ProjectionWorkerError):
    """A dead letter is not there, or can be neither retried nor skipped. Nothing was done."""


class PastLostError(ProjectionWorkerError):
    """A log no longer holds the events that the answer rests on; the message says from where on it does."""


class EmbeddedServersMissingError(ProjectionWorkerError):
    """The wheels that carry the embedded servers are not installed."""


class EmbeddedServerError(ProjectionWorkerError):
    """An embedded server did not start or stop as it should; the message ends with its log."""


class MissingExtraError(ProjectionWorkerError):
    """A package that one of the optional extras brings is not installed; the message names the extra."""
