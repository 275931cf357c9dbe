"""HOW copies converge: the background work of a node.

**The idea.** Copies that differ converge in four ways, each for what the one before it missed: the coordinator sends a
write again while its client waits (``coordinator.write_fanout``); a node that holds a write keeps a hint for one that
does not (``replica.hints``, ``handoff``; P11); a read writes back what some of its answers lacked
(``coordinator.reads``; P9); and each partition is compared by Merkle trees once a day, or on request (``merkle``,
``anti_entropy``; Dynamo, section 4.7). Merging is commutative, associative and idempotent, so all four may run at once,
twice, or in any order. The comparison also makes incomplete nodes complete (P1), fills new owners (P4), and is the only
moment at which a delete can be forgotten (P10).

**Invariants.**

1. A record that a node sends to another is durable first, and so is all that makes a node complete (P3).
2. A record is forgotten by all its owners or by none (P10).
3. Who heals or takes a partition over promises what those promised of whom it has the records (L3, L9).
4. Clients come first: work in the background takes a bounded share of the node's time and bytes (``throttle``).

Read from the bottom up: ``throttle``, ``merkle``, ``local_copy`` (the node's own records), ``agreements`` (what all may
soon forget), ``anti_entropy``, ``handoff``, ``maintenance`` (the loops that run all of it).

**What is left out.** Deciding who owns what, and when: nodes act on the state that they were given. Copying files:
records travel one by one, through the same merge as writes.
"""
