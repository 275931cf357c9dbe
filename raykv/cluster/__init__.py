"""WHAT all agree on: the cluster's state, how it changes, and how a caller judges the nodes' answers.

**The idea.** Ring, members and buckets are one immutable value with a number. The supervisor makes the next one by a
pure function of the last, has a majority of the nodes accept it on their disks, and only then hands it out;
all others act on the newest that they have received, and name it in their requests. The cluster is never half-way
through a change: a partition that moves does it by three such values in a row.

**Invariants.**

1. No two states have one number, and none is used before a majority holds it (P5).
2. Two neighbouring states are safe to use side by side: a reader by one sees what a writer by the other wrote (P4).
3. An answer counts only if it comes from the run that was asked, or a later one (P6), and says that the node is
   complete (P1).

Read from the bottom up: ``state`` (the value), ``moves`` (from one to the next; pure), ``acceptor`` and ``register``
(the two sides of Paxos: a node's, which promises and accepts; the supervisor's, which proposes), ``health`` (what one
caller has learned of each node; pure), ``peers`` (one call, and which answers to trust), ``fanout`` (calls to several
nodes at once), ``background`` (tasks without a waiter).

**What is left out.** A log of states: a register keeps the latest, and nothing needs the earlier ones. Deciding what
the next state should be: that is supervision. Verdicts: ``health`` is one caller's view; which node is down is
``membership``'s.
"""
