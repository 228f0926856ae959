"""Projections as their authors declare them: every mistake is one sentence, said as early as it can be."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from uuid import uuid4

import pytest
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Computed,
    Date,
    DateTime,
    Dialect,
    Double,
    Enum,
    Float,
    ForeignKey,
    Identity,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    PickleType,
    Sequence,
    String,
    Table,
    Text,
    TypeDecorator,
    Uuid,
    func,
)
from sqlalchemy.dialects.postgresql import HSTORE, JSONB
from sqlalchemy.orm import DeclarativeBase, column_property

from projections import strategies
from tests.tallies import Tally, tallies
from worker import Event, ProjectedRow, Projection
from worker.errors import DeclarationError
from worker.letters import WorkerTables
from worker.loading import OWN_TABLES, load_attribute, load_modules, load_projections
from worker.migrate import VERSION_TABLE
from worker.row import RawJson


def model(*mixins: type[Any], **columns: Any) -> type[Any]:
    """A model with these columns; a class of its own each time."""

    class Base(DeclarativeBase):
        pass

    return type("Model", (*mixins, Base), {"__tablename__": "models", **columns})


def projected(**columns: Any) -> type[Any]:
    return model(ProjectedRow, **columns)


class Rule:
    """As much of a cross-stream rule as a declaration looks at."""

    def __init__(self, *columns: str) -> None:
        self.columns = frozenset(columns)
        self.races = frozenset[str]()


def declared(name: str = "p", table: type[Any] = Tally, **options: Any) -> Projection:
    return Projection(name, table=table, **options)


def without_handlers() -> None:
    declared().check()


def checkpoint_without_handler() -> None:
    projection = Projection("tallies", table=Tally, checkpoints={"add", "typo"})
    projection.on("add")(ignore)
    projection.check()


def two_handlers() -> None:
    tallies().on("new", "add")(ignore)


def no_types() -> None:
    tallies().on()(ignore)


def ignore(row: Any, event: Event) -> None:
    """A handler that does nothing."""


def column(column: Column[Any]) -> Callable[[], object]:
    """A declaration whose table has this column more."""
    return lambda: declared(table=projected(**{column.name or "it": column}))


def mapped_to_a_join() -> Projection:
    class Base(DeclarativeBase):
        pass

    metadata = Base.metadata
    left = Table("a", metadata, Column("id", Text, primary_key=True))
    right = Table("b", metadata, Column("id", Text, ForeignKey("a.id"), primary_key=True))
    both = type(
        "Both", (Base,), {"__table__": left.join(right), "id": column_property(left.c.id, right.c.id)}
    )
    return declared(table=both)


class Colour(enum.Enum):
    RED = "red"


class Lower(TypeDecorator[str]):
    """Text in lower case."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value.lower() if value else value


class Name(TypeDecorator[str]):
    """Text of a limited length, and no more than that."""

    impl = String(9)
    cache_ok = True


class Tags(TypeDecorator[Any]):
    """JSON by another name."""

    impl = JSONB
    cache_ok = True


MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    "no name": (lambda: declared(""), "Projection name ''"),
    "name with a colon": (lambda: declared("a:b"), "Projection name 'a:b'"),
    "name with an accent": (lambda: declared("é"), "Projection name 'é'"),
    "version 0": (lambda: declared(version=0), "version must be 1 or more, not 0"),
    "no name at all": (lambda: declared(None), "Projection name None"),  # type: ignore[arg-type]
    "version as text": (lambda: declared(version="1"), "version must be an integer such as 1, not '1'"),
    "version true": (lambda: declared(version=True), "version must be an integer such as 1, not True"),
    "version 1.5": (lambda: declared(version=1.5), "version must be an integer such as 1, not 1.5"),
    "checkpoints as text": (lambda: declared(checkpoints="paid"), "a set of event types, not 'paid'"),
    "checkpoints none": (lambda: declared(checkpoints=None), "a set of event types, not None"),
    "checkpoints of numbers": (lambda: declared(checkpoints={1}), "an event type is a string, not 1"),
    "unknown policy": (lambda: declared(poison="skip"), "poison must be 'stop' or 'pass', not 'skip'"),
    "policy as a number": (lambda: declared(poison=0), "poison must be 'stop' or 'pass', not 0"),
    "no field for versions": (lambda: declared(payload_version=""), "the name of a field such as 'version'"),
    "rule that is none": (lambda: declared(rule="claims"), "rule must be a CrossStreamRule, not 'claims'"),
    "class of a rule": (lambda: declared(rule=Rule), "give an instance"),
    "table of SQLAlchemy Core": (
        lambda: declared(table=cast(Any, Tally.__table__)),
        "must be a SQLAlchemy model",
    ),
    "model of a join": (mapped_to_a_join, "Both is mapped to no single table"),
    "no model": (lambda: declared(table=dict), "must be a SQLAlchemy model"),
    "no mixin": (
        lambda: declared(table=model(stream_id=Column(Text, primary_key=True))),
        "ProjectedRow mixin",
    ),
    "another key": (
        lambda: declared(table=projected(day=Column(Text, primary_key=True))),
        "primary key of models must be stream_id alone",
    ),
    "kept columns of other types": (
        lambda: declared(table=projected(last_event_id=Column(Integer), updated_at=Column(DateTime))),
        "columns ['last_event_id', 'updated_at'] of models are not of the types",
    ),
    "kept columns that are required": (
        lambda: declared(table=projected(first_event_id=Column(Text, nullable=False))),
        "columns ['first_event_id'] of models are null before the first event",
    ),
    "array": (lambda: declared(table=projected(tags=Column(ARRAY(Text)))), "['tags'] are arrays"),
    "not null without default": (
        lambda: declared(table=projected(size=Column(Integer, nullable=False))),
        "column size may not be null; give it a default",
    ),
    "default of the server alone": (
        lambda: declared(table=projected(size=Column(Integer, nullable=False, server_default="0"))),
        "column size may not be null; give it a default",
    ),
    "default that the database computes": (
        lambda: declared(table=projected(at=Column(Text, nullable=False, default=func.now()))),
        "column at has a default that the database computes",
    ),
    "default that the database computes, of what may be null": (
        column(Column("at", Text, default=func.now())),
        "column at has a default that the database computes",
    ),
    "default by the clock": (
        column(Column("at", DateTime(timezone=True), default=lambda: datetime.now(UTC))),
        "column at has a default that is another each time",
    ),
    "default by chance": (
        column(Column("token", Uuid, default=uuid4)),
        "column token has a default that is another each time",
    ),
    "default that needs a statement": (
        column(Column("twice", Integer, default=lambda context: context.current_parameters["n"])),
        "column twice has a default that raises AttributeError",
    ),
    "default that is no JSON": (
        column(Column("tags", JSONB, default=lambda: {1, 2})),
        "the default of column tags is no JSON",
    ),
    "default of the server alone, explained": (
        column(Column("size", Integer, nullable=False, server_default="0")),
        "as well, since handlers do not see that of the server",
    ),
    "numbered by the database": (
        column(Column("number", Integer, Identity())),
        "column number is numbered by the database",
    ),
    "numbered by a sequence": (
        column(Column("number", Integer, Sequence("numbers"))),
        "column number is numbered by the database",
    ),
    "onupdate": (
        column(Column("at", Text, onupdate="x")),
        "column at has an onupdate, which is never called",
    ),
    "no type": (column(Column("thing")), "column thing has no type"),
    "type with conversions": (column(Column("lower", Lower())), "column lower has type Lower, whose conv"),
    "JSON by another name": (column(Column("tags", Tags())), "column tags has type Tags"),
    "pickled": (column(Column("thing", PickleType)), "column thing has type PickleType"),
    "Python enum": (column(Column("colour", Enum(Colour))), "column colour has a Python enum as type"),
    "hstore": (column(Column("tags", HSTORE)), "column tags has type HSTORE; use jsonb"),
    "UUID as text": (column(Column("key", Uuid(as_uuid=False))), "column key is a Uuid with as_uuid=False"),
    "Numeric as float": (
        column(Column("price", Numeric(asdecimal=False))),
        "column price has numbers of another kind",
    ),
    "Float as Decimal": (column(Column("x", Float(asdecimal=True))), "column x has numbers of another kind"),
    "names that rows need": (
        lambda: declared(table=projected(state=Column(Text), facts=Column(Text))),
        "['facts', 'state']",
    ),
    "names of two kinds": (
        lambda: declared(table=projected(shown=Column("name_shown", Text, key="shown"))),
        "['shown']",
    ),
    "logs without a prefix": (lambda: declared(logs=""), "logs is empty, so that every key would be a log"),
    "logs of the feed": (lambda: declared(logs="feed:"), "which begin with 'feed:'"),
    "logs that begin like the feed": (lambda: declared(logs="f"), "which begin with 'feed:'"),
    "logs among the worker's keys": (lambda: declared(logs="worker:x:"), "which begin with 'worker:'"),
    "logs with a NUL": (lambda: declared(logs="a\0:"), "holds what no key prefix should"),
    "streams that are none": (lambda: declared(streams=""), "streams is empty, which no stream matches"),
    "streams that are no text": (lambda: declared(streams=cast("Any", ["eu-*"])), "not ['eu-*']"),
    "streams in the words of Redis": (lambda: declared(streams="[^a]*"), "[!a] for all but a"),
    "streams that no client can send": (lambda: declared(streams="\ud800"), "holds what no pattern should"),
    "rule over unknown columns": (lambda: declared(rule=Rule("wdk")), "its rule computes ['wdk']"),
    "no handlers": (without_handlers, "it has no handlers"),
    "checkpoint without handler": (checkpoint_without_handler, "no handler for checkpoints ['typo']"),
    "two handlers for a type": (two_handlers, "two handlers for 'add'"),
    "on() without a type": (no_types, "on() needs at least one event type"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake: str) -> None:
    make, told = MISTAKES[mistake]
    with pytest.raises(DeclarationError) as caught:
        make()
    sentence = str(caught.value)
    assert told in sentence
    assert sentence.startswith("Projection ")
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_a_handler_may_serve_several_types_and_still_be_called() -> None:
    projection = Projection("tallies", table=Tally, checkpoints={"b"})
    assert projection.on("a", "b")(ignore) is ignore
    projection.check()
    assert projection.types == {"a", "b"}
    assert projection.checkpoints == {"b"}


def test_a_new_row_has_the_defaults_of_the_model() -> None:
    table = projected(
        a=Column(Text),
        b=Column(String(5), nullable=False, default="x"),
        c=Column(JSONB, nullable=False, default=lambda: {"n": 1}),
        d=Column(JSONB),
        e=Column(Integer, default=lambda: 7),
    )
    projection = declared(table=table)
    new = dict(zip(projection.columns, projection.new_state, strict=True))
    assert new == {"a": None, "b": "x", "c": RawJson('{"n":1}'), "d": None, "e": 7}
    assert projection.json_columns == {"c", "d"}


def test_columns_of_usual_types_are_fine() -> None:
    kinds: list[Any] = [
        Text,
        String(5),
        BigInteger,
        Boolean,
        Numeric(10, 2),
        Float,
        Double,
        Date,
        DateTime(timezone=True),
        Interval,
        Uuid,
        LargeBinary,
        Enum("red", "green", name="colour"),
        JSONB,
        Name,
    ]
    columns = {f"c{at}": Column(kind) for at, kind in enumerate(kinds)}
    assert declared(table=projected(**columns)).columns == tuple(columns)


def test_what_the_database_generates_is_not_folded() -> None:
    table = projected(a=Column(Text), shown=Column(Text, Computed("upper(a)")))
    assert declared(table=table).columns == ("a",)


def test_what_a_rule_computes_is_not_folded() -> None:
    projection = declared(rule=Rule("note"))
    assert projection.columns == ("total", "numbers")


# Finding projections by the name of their module.


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("users_projections")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_all_projections_of_a_module_are_found_by_name(module: ModuleType) -> None:
    second, first = tallies(), strategies
    second.name = "z"
    vars(module).update(x=second, again=second, y=first, z=5)
    assert load_projections(module.__name__) == [first, second]


def test_a_module_may_offer_other_things(module: ModuleType) -> None:
    vars(module).update(answer=42)
    assert load_attribute(module.__name__, "answer") == 42
    with pytest.raises(DeclarationError, match="has no question"):
        load_attribute(module.__name__, "question")


@pytest.mark.parametrize("name", ["no_such_module", "worker.no_such_module", "", ".", ".relative", "a..b"])
def test_a_module_that_is_not_there_is_one_sentence(name: str) -> None:
    with pytest.raises(DeclarationError, match=r"cannot be imported; WORKER_PROJECTIONS is '.*'\.$"):
        load_projections(name)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("x = (\n", r"line 1: SyntaxError: '\(' was never closed;"),
        (
            "\nfrom json import nothing\n",
            r"line 2: ImportError: cannot import name 'nothing' from 'json' \(.*\);",
        ),
        ("import no_such_module\n", r"line 1: ModuleNotFoundError: No module named 'no_such_module';"),
        ("def f():\n    1 / 0\n\nf()\n", r"line 4: ZeroDivisionError: division by zero;"),
        ("raise SystemExit(0)\n", r"line 1: SystemExit: 0;"),
        ("raise ValueError('one\\n two')\n", r"line 1: ValueError: one two;"),
        ("raise ValueError\n", r"line 1: ValueError;"),
    ],
)
def test_a_module_that_fails_is_one_sentence_that_tells_the_line(
    source: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_projections.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    wanted = (
        rf"^Module failing_projections cannot be imported, because of .*failing_projections\.py, {told} mend"
    )
    with pytest.raises(DeclarationError, match=wanted):
        load_projections("failing_projections")


def test_a_wrong_declaration_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong_projections.py").write_text(
        "from worker import Projection\nProjection('a b', table=int)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeclarationError, match=r"^Projection name 'a b' must consist"):
        load_projections("wrong_projections")


def test_a_comma_too_many_is_no_mistake(module: ModuleType) -> None:
    vars(module).update(a=tallies())
    assert load_projections(f" {module.__name__} ,, projections, ") == [strategies, vars(module)["a"]]


def test_a_module_without_projections_says_what_to_do(module: ModuleType) -> None:
    with pytest.raises(DeclarationError, match="declare one in it or set WORKER_PROJECTIONS"):
        load_projections(module.__name__)


def test_two_projections_of_one_name_would_share_a_group(module: ModuleType) -> None:
    vars(module).update(a=tallies(), b=tallies())
    with pytest.raises(DeclarationError, match=r"two projections named \['tallies'\]"):
        load_projections(module.__name__)


def test_logs_that_would_take_in_those_of_another_are_told(module: ModuleType) -> None:
    vars(module).update(a=tallies(logs="a:"), b=declared("b", logs="a:b:"))
    vars(module)["b"].on("add")(ignore)
    with pytest.raises(DeclarationError, match="would take in 'a:b:', those of projection b; give them"):
        load_projections(module.__name__)
    vars(module).update(b=declared("other", projected(), logs="a:"))
    vars(module)["b"].on("add")(ignore)
    assert len(load_projections(module.__name__)) == 2


def test_a_table_is_one_projections_alone(module: ModuleType) -> None:
    vars(module).update(a=tallies("a"), b=tallies("b", logs="b:"))
    with pytest.raises(DeclarationError, match="b: its table tallies is one of projection a, too; give it a"):
        load_projections(module.__name__)


def test_no_table_is_the_workers_own(module: ModuleType) -> None:
    assert set(WorkerTables.metadata.tables) | {VERSION_TABLE} <= OWN_TABLES
    model = projected()
    model.__table__.name = model.__table__.fullname = "dead_letters"
    vars(module).update(a=declared("a", model))
    vars(module)["a"].on("add")(ignore)
    with pytest.raises(DeclarationError, match="its table dead_letters is one of the worker itself, too"):
        load_projections(module.__name__)


def test_modules_are_separated_by_commas_and_share_no_name(module: ModuleType) -> None:
    vars(module).update(a=tallies())
    both = load_projections(f"projections, {module.__name__},projections")
    assert both == [strategies, vars(module)["a"]]
    vars(module).update(a=tallies(strategies.name), strategies=strategies)
    with pytest.raises(DeclarationError, match=r"two projections named \['strategies'\]"):
        load_projections(f"projections,{module.__name__}")
    with pytest.raises(DeclarationError, match=r"nowhere cannot be imported; WORKER_PROJECTIONS is 'proj"):
        load_projections("projections,nowhere")


def test_a_projection_belongs_to_the_first_module_that_holds_it(module: ModuleType) -> None:
    vars(module).update(strategies=strategies, a=tallies(), migrations=ModuleType("package"))
    first, second = load_modules(f"projections,{module.__name__}")
    assert first.projections == (strategies,)
    assert second.projections == (vars(module)["a"],)
    assert second.migrations is None
    vars(module).update(migrations=5)
    with pytest.raises(DeclarationError, match="migrations must be the path of a folder, not 5; write"):
        load_modules(module.__name__)


def test_projections_are_checked_when_they_are_loaded(module: ModuleType) -> None:
    vars(module).update(a=declared())
    with pytest.raises(DeclarationError, match="has no handlers"):
        load_projections(module.__name__)
