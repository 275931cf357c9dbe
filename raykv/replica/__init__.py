"""WHAT a node answers: plain functions over its storage engine.

**The idea.** A handler runs to its end on the node's event loop, so none sees another's half-done work, and there is
nothing to lock. It returns its answer and the log position that the answer depends on; ``node`` releases the answer
when the log is durable up to there. A node decides nothing about other nodes: it merges what it receives, shows what
it has, and says so when it may lack something or knows other owners.

**Invariants.**

1. An incomplete node shows nothing and gives no dots (P1); a dot is given once (P2).
2. An answer never depends on more than its log position says (P3).
3. A request under another epoch than the node's is refused if the owners of what it concerns differ (P4).
4. A write that stands below something newer is answered with that time, not acknowledged (P7).

Read from the bottom up: ``dot_allocator``, ``hints`` (what other nodes missed), ``load`` (the node's
workload), ``scanning`` (pages of scans), ``handlers``.

**What is left out.** Waiting, for the log or for anything else: that is ``node``'s. Values: they are never decoded here.
Calling other nodes: that is ``repair``'s.
"""
