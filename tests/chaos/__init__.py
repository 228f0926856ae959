"""Chaos: four replicas project what producers append, while everything around them fails.

``pytest tests/chaos`` does so for 60 seconds (``CHAOS_SECONDS``) and prints its seed (``CHAOS_SEED`` plays
one again: the same events, and much the same faults, at about the same moments). ``python -m tests.chaos
--seconds 600 --seed 1`` is the same as a command, ``--help`` tells the rest.

A run has its own servers out of the wheels (`servers`), of which each can be killed, frozen and started
again, and a proxy in front of each (`tests.proxy`), which is the network between it and the replicas. The
replicas are real processes (`fleet`), with settings that differ. Producers go past the proxies (`producers`):
some use `emit`, others write to the log alone and hint at once, never, or badly (`hints`); most keep to a few
streams, one begins new ones all the time (`events`). What they append they write into a ledger (`ledger`),
once they know that it stands in the log. All of that together is the `world`.

Every two to five seconds there is a fault (`faults`, chosen by `schedule`), which is mended at the latest
after some seconds. Up to three overlap, never two of one target. No kind comes again before all have been.
Where Redis loses logs, the driver appends what is lost again, from the ledger, with the same ids and without
hints: nobody else does anything to help the replicas.

In the end (`run`) the table must be that of the single reader of `tests.reference`, given the ledger; every
hint must be acknowledged; the logs must be as the ledger says; no replica may have ended by itself; all must
stop with exit code 0; and the table must still be right. The report (`report`) tells how long nothing moved
at most, too (`stalls`).
"""
