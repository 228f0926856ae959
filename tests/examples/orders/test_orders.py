"""What becomes of orders."""

import asyncio
from typing import Any

import hypothesis
from hypothesis import strategies as st

from worker.testing import assert_replay_equals_live, event, event_sequences, given

from . import orders

TEA = {"version": 2, "sku": "tea", "price_cents": 420, "quantity": 2}


def test_a_line_is_added_and_paid_for() -> None:
    given(
        orders, event("order_placed", customer="Ada"), event("line_added", **TEA), event("order_paid")
    ).then(customer="Ada", status="paid", total_cents=840, lines={"tea": {"quantity": 2, "price_cents": 420}})


def test_a_line_that_was_removed_costs_nothing() -> None:
    given(orders, event("line_added", **TEA), event("line_removed", sku="tea")).then(total_cents=0, lines={})


def test_prices_of_old_events_are_in_cents_now() -> None:
    given(orders, event("line_added", sku="tea", price="4.20")).then(total_cents=420)


def test_an_event_that_makes_no_sense_changes_nothing() -> None:
    given(orders, event("line_added", version=2, sku="tea")).then_rejected("price_cents")


LINES = st.fixed_dictionaries(
    {"version": st.just(2), "sku": st.sampled_from(["tea", "jam"]), "price_cents": st.integers(0, 999)}
)


@hypothesis.given(
    event_sequences(
        orders, {"line_added": LINES, "line_removed": LINES, "order_paid": st.just({})}, malformed=True
    )
)
def test_a_replay_gives_the_same_rows(sequences: Any) -> None:
    assert_replay_equals_live(orders, sequences)


def test_on_real_servers(projection_world: Any) -> None:
    async def live() -> None:
        async with projection_world(orders) as world:
            async with world.killed():  # after the commit, before the acknowledgement
                await world.emit("7", "line_added", **TEA)
            await world.caught_up()
            assert await world.rows("lines", "7") == {"tea": {"quantity": 2, "price_cents": 420}}

    asyncio.run(live())
