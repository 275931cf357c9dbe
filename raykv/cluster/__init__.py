"""WHAT all agree on: the cluster's state, how it changes, and what a caller makes of the nodes' answers.

**The idea.** Ring, members and buckets are one immutable value with a number. The supervisor makes the next one by a
pure function of the last, stores it as one register on a majority of the nodes' disks, and only then hands it out;
everybody else acts on the newest that they were given, and requests say by which. There is no moment at which half of
the cluster is half-way through a change: a partition that moves does it by three such values in a row.

**Invariants.**

1. No two states have one number, and none is acted on before a majority holds it (P5).
2. Two neighbouring states are safe to act on side by side: what one of them writes, a reader by the other sees (P4).
3. An answer counts only if it comes from the run that was asked, or a later one (P6), and says that the node is
   complete (P1).

Read from the bottom up: ``state`` (the value), ``moves`` (from one to the next; pure), ``acceptor`` and ``register``
(a node's and the supervisor's part of storing it), ``health`` (what one caller has learned of each node; pure),
``peers`` (one call, and which answers are believed), ``fanout`` (calls to several nodes at once), ``background``
(tasks that nobody awaits).

**What is left out.** A log of states: a register keeps the latest, for nobody needs the ones before. Deciding what
the next state should be: that is supervision. Verdicts: ``health`` is one caller's view; which node is down is
``membership``'s.
"""
