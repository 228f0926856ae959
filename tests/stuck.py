"""A projection whose handlers take their time, or never return."""

from __future__ import annotations

import re
import time

from sqlalchemy import Integer
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from worker import Event, ProjectedRow, Projection

WORK_SECONDS = 0.05


class Base(DeclarativeBase):
    """The metadata of this table alone."""


class Stuck(ProjectedRow, Base):
    __tablename__ = "stuck"

    worked: Mapped[int] = mapped_column(Integer, default=0)


stuck = Projection("stuck", table=Stuck)


@stuck.on("loop")
def loop_for_ever(row: Stuck, event: Event) -> None:
    while True:
        row.worked += 1


@stuck.on("match")
def match_for_ever(row: Stuck, event: Event) -> None:
    """In C code, which lets no other thread and no Python signal handler run."""
    re.match(r"(a+)+$", "a" * 64 + "b")


@stuck.on("work")
def work_hard(row: Stuck, event: Event) -> None:
    row.worked += 1
    until = time.process_time() + WORK_SECONDS
    while time.process_time() < until:
        pass
