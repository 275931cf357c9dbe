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
5. A later promise ends an earlier term here (L2), and only a complete node promises, shows and accepts (L3).
6. A leader answers nothing that F owners have not confirmed under its term since (L7).

Read from the bottom up: ``dot_allocator``, ``hints`` (what other nodes missed), ``load`` (the node's
workload), ``scanning`` (pages of scans), ``promises`` and ``voting`` (an owner's part of linearizable buckets),
``handlers``. A leader's part waits, and calls the other owners: ``applying`` (what a change does to a value), ``tenure``
(one term, and its rounds), ``lanes`` (calls and their answers), ``turns``, ``looking`` (what owners hold of a key),
``owners`` (asking them), ``takeover`` (a new term), ``leader``.

**What is left out.** Waiting for the log, which is ``node``'s. Values: none is decoded here but a cell's number. Calling
other nodes, except as a leader: that is ``repair``'s.
"""
