"""For tests of projections: what handlers make of events, at once in memory or on real servers.

::

    def test_paid_orders():
        given(orders, event("line_added", sku="apple", quantity=2), event("order_paid")).then(
            status="paid", lines={"apple": {"quantity": 2}}
        )

    @hypothesis.given(event_sequences(orders, {"line_added": lines, "order_paid": st.just({})}))
    def test_replay(appended):
        assert_replay_equals_live(orders, appended)

    async def test_on_real_servers(projection_world):
        async with projection_world(orders) as world:
            await world.emit("eu-1", "line_added", sku="apple", quantity=2)
            await world.caught_up()
            assert await world.rows("lines", "eu-1") == {"apple": {"quantity": 2}}

The fixture ``projection_world`` comes with the package, as a plugin of pytest; ``pytest --fixtures`` tells
which servers it takes, and `worker.testing.world` what a world can do. No plugin for async tests is needed:
``asyncio.run`` does as well. ``pip install 'projection-worker[testing]'`` brings all that is needed.
"""

from worker.fault_points import Point
from worker.testing.drafts import event, events
from worker.testing.replay import assert_replay_equals_live
from worker.testing.scenario import Given, given
from worker.testing.sequences import event_sequences

__all__ = ["Given", "Point", "assert_replay_equals_live", "event", "event_sequences", "events", "given"]
