"""Transactions that write, and what each of them begins with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

# A worker that is frozen inside a transaction must not hold up the others for longer than this.
LIMITS = {
    "synchronous_commit": "on",
    "lock_timeout": "5s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "10s",
}
"""What every transaction that writes begins with."""


class WorkerConnection(asyncpg.Connection):
    """A connection that sets the limits of a transaction along with its BEGIN, in one round trip."""

    limit_next_transaction = False

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """Run statements; see asyncpg."""
        if self.limit_next_transaction and query.startswith("BEGIN"):
            self.limit_next_transaction = False
            query += "".join(f" SET LOCAL {name} = '{value}';" for name, value in LIMITS.items())
        return str(await super().execute(query, *args, **options))


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction with these limits, committed at the end of the block, and rolled back if it raises."""
    async with engine.begin() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        # An application's own engine may have others; `isinstance` says so of any connection of asyncpg.
        if not issubclass(type(driver), WorkerConnection):
            settings = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in LIMITS.items())
            await connection.exec_driver_sql(f"SELECT {settings}")
            yield connection
            return
        assert driver is not None
        driver.limit_next_transaction = True  # SQLAlchemy begins with the first statement.
        try:
            yield connection
        finally:  # There may have been none, and the connection is for others next.
            driver.limit_next_transaction = False
