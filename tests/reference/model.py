"""The single reader: the table as it must be, given the logs and what operators skipped.

It applies all events of all logs in the order of (event id, stream id), event ids compared as two numbers
and stream ids as UTF-8 bytes, to a dict of rows, one after another. There is no history of claims, no
version and no concurrency: whoever claims a WDK strategy takes it from its holder at once.

Where the rules can be read in two ways, this reference reads them so:

* "Wrong JSON type, ignored" means: as if the field were absent. It holds for every field of the eight
  projected types, those of a step included: `searchName`, `displayName`, `operator` and `kind` are text,
  `parameters` and `colocationParams` are objects. So a step with the search name 5 is `__unknown__`, an
  operator 5 makes no `__combine__`, parameters that are null or a list become `{}`, and a plan's node with
  the search name 5 is not counted.
* One exception is stated: the first non-empty of `name` and `graphName` is looked for among values of any
  type (empty are null, false, 0, "", [] and {}), and a name of 5 then hides a good `graphName`.
* The name in a plan's metadata is the snapshot's field `name`, never `graphName`, and empty if that is no
  text.
* "Absent" is not "empty": a snapshot whose `recordType` is "" has a plan with that record type, and a
  `modelId` or a `rootStepId` of "" is set.
* Whitespace is not empty, except around `kind`, where all whitespace at either end is put aside (not
  within).
* Steps without text as `id` are no steps; "" is an id like any other.
* A cycle that the root does not reach is no obstacle, nor is anything else it does not reach.
* The root is level 1; 200 levels, 10,000 nodes and 16 MiB are allowed. The JSON of a plan is measured in
  bytes of UTF-8 as PostgreSQL prints jsonb (a space after each comma and colon).
* A snapshot whose plan is refused still sets its other columns. Walking a given plan goes on through nodes
  that have no search name, and ends at what is no object.
* Data must be strict UTF-8: raw surrogates, UTF-16 and a byte order mark are not JSON. 7.0 is no integer.
  The payload is nesting level 1, and level 500 is allowed. A payload is the field `data`, and exactly 16
  MiB of it are allowed.
* Numbers are what Python makes of them: 1e400 is infinite and so null, and an integer of more than 4,300
  digits is an undecodable payload. Of a key given twice, the last counts.
* Text is cleaned when it is read, not when it is written: two step ids that differ only in a NUL and a
  U+FFFD are one, and a NaN is an absent value for all rules.
* An integer `wdkStrategyId` outside bigint is looked at in `strategy_link` only, and undoes its `isSaved`
  too. Zero and negative ids can be claimed.
* Claiming another id gives up the one held, to nobody. A stream that claims what it holds changes nothing.
  Claiming does not touch the stream's own is_saved.
* A skipped event moves last_event_id and updated_at, creates the row, and does nothing else.
* An event from after the year 9999 moves last_event_id only; a row that it creates has updated_at null.
* An event that can never be applied is not applied in part: a `user_message` without data is not counted as
  a message, a `graph_cleared` without data clears nothing.
* Stream ids that cannot be stored (no UTF-8, NUL, over 512 bytes) have no row.

Rows that exist before their first event, and logs that lost entries, are not modelled.
"""

import json
from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias

from tests.reference.plan import plan_of, searches_in
from tests.reference.wire import PAYLOAD_LIMIT, Entry, numerically, storable_object, time_of, type_of

Row: TypeAlias = dict[str, Any]
Payload: TypeAlias = dict[str, Any]

DEFAULT_NAME = "New Conversation"
BIGINT = range(-(2**63), 2**63)
STREAM_ID_LIMIT = 512

PROJECTED_TYPES = frozenset(
    {
        "user_message",
        "assistant_message",
        "strategy_meta",
        "strategy_link",
        "graph_snapshot",
        "graph_plan",
        "model_selected",
        "graph_cleared",
    }
)


def single_reader(
    logs: Mapping[str, Sequence[Entry]],
    skipped: Container[tuple[str, str]] = (),
    *,
    payload_limit: int = PAYLOAD_LIMIT,
) -> dict[str, Row]:
    """The rows by stream id, after every event of every log.

    `skipped` holds (stream id, event id) of the events that operators skipped; `payload_limit` is in bytes.
    """
    rows: dict[str, Row] = {}
    for stream_id, event_id, fields in in_order(logs):
        event_type = type_of(fields)
        if event_type not in PROJECTED_TYPES:
            continue
        row = rows.setdefault(stream_id, new_row(stream_id))
        row["last_event_id"] = event_id
        time: datetime | None = time_of(event_id)
        if time is None:
            continue
        row["updated_at"] = time
        if (stream_id, event_id) in skipped:
            continue
        payload = storable_object(fields.get(b"data"), payload_limit)
        if payload is None:
            continue
        apply(rows, row, event_type, payload)
    return rows


def in_order(logs: Mapping[str, Sequence[Entry]]) -> list[tuple[str, str, dict[bytes, bytes]]]:
    """All entries of all logs as (stream id, event id, fields), in the order that decides between streams.

    Streams that cannot be stored are left out.
    """
    entries = [
        (stream_id, event_id, fields)
        for stream_id, log in logs.items()
        if is_storable(stream_id)
        for event_id, fields in log
    ]
    return sorted(entries, key=lambda entry: (numerically(entry[1]), entry[0].encode("utf-8")))


def is_storable(stream_id: str) -> bool:
    """Whether PostgreSQL can hold this stream id, and we want to."""
    try:
        return "\x00" not in stream_id and len(stream_id.encode("utf-8")) <= STREAM_ID_LIMIT
    except UnicodeEncodeError:
        return False


def new_row(stream_id: str) -> Row:
    """A row before its first event."""
    return {
        "stream_id": stream_id,
        "name": DEFAULT_NAME,
        "record_type": None,
        "wdk_strategy_id": None,
        "is_saved": False,
        "model_id": None,
        "message_count": 0,
        "step_count": 0,
        "plan": {},
        "steps": [],
        "root_step_id": None,
        "last_event_id": None,
        "updated_at": None,
    }


def apply(rows: dict[str, Row], row: Row, event_type: str | None, payload: Payload) -> None:
    """Change a row as one event of a projected type says, and others only by taking their claim away."""
    match event_type:
        case "user_message" | "assistant_message":
            row["message_count"] += 1
        case "strategy_meta":
            set_name_and_record_type(row, payload)
        case "strategy_link":
            link(rows, row, payload)
        case "graph_snapshot":
            take_snapshot(row, payload)
        case "graph_plan":
            take_plan(row, payload)
        case "model_selected":
            if isinstance(payload.get("modelId"), str):
                row["model_id"] = payload["modelId"]
        case "graph_cleared":
            clear(row)


def set_name_and_record_type(row: Row, payload: Payload) -> None:
    """A text that is not empty sets its column."""
    if is_filled_text(payload.get("name")):
        row["name"] = payload["name"]
    if is_filled_text(payload.get("recordType")):
        row["record_type"] = payload["recordType"]


def link(rows: dict[str, Row], row: Row, payload: Payload) -> None:
    """Claim a WDK strategy: whoever else holds it loses it, and is no longer saved."""
    wdk_strategy_id = payload.get("wdkStrategyId")
    if isinstance(wdk_strategy_id, int) and not isinstance(wdk_strategy_id, bool):
        if wdk_strategy_id not in BIGINT:
            return
        for other in rows.values():
            if other is not row and other["wdk_strategy_id"] == wdk_strategy_id:
                other["wdk_strategy_id"] = None
                other["is_saved"] = False
        row["wdk_strategy_id"] = wdk_strategy_id
    if isinstance(payload.get("isSaved"), bool):
        row["is_saved"] = payload["isSaved"]


def take_snapshot(row: Row, payload: Payload) -> None:
    """Take over the steps of a graph, and the plan that they make up."""
    snapshot = payload.get("graphSnapshot")
    if not isinstance(snapshot, dict):
        return
    if isinstance(snapshot.get("steps"), list):
        row["steps"] = snapshot["steps"]
        row["step_count"] = len(snapshot["steps"])
    if isinstance(snapshot.get("rootStepId"), str):
        row["root_step_id"] = snapshot["rootStepId"]
    name = snapshot.get("name") or snapshot.get("graphName")
    if is_filled_text(name):
        row["name"] = name
    if is_filled_text(snapshot.get("recordType")):
        row["record_type"] = snapshot["recordType"]
    plan = plan_of(snapshot)
    if plan is not None:
        row["plan"] = plan


def take_plan(row: Row, payload: Payload) -> None:
    """Take over a plan as given."""
    if isinstance(payload.get("plan"), dict):
        row["plan"] = payload["plan"]
        row["step_count"] = searches_in(payload["plan"])
    set_name_and_record_type(row, payload)


def clear(row: Row) -> None:
    """Forget the graph, its name and the claim; the record type, the model and the messages stay."""
    row["name"] = DEFAULT_NAME
    row["plan"] = {}
    row["steps"] = []
    row["root_step_id"] = None
    row["step_count"] = 0
    row["wdk_strategy_id"] = None
    row["is_saved"] = False


def is_filled_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def as_stored(value: Any) -> Any:
    """A JSON value as PostgreSQL's jsonb gives it back: 1e+23 comes back written out, as an integer.

    Apply it to both sides before comparing `plan` or `steps` with what was read from the table.
    """
    return json.loads(json.dumps(value), parse_float=_number_as_stored)


def _number_as_stored(text: str) -> int | float:
    number = Decimal(text)
    is_written_out = "e" in text and number == number.to_integral_value()
    return int(number) if is_written_out else float(text)
