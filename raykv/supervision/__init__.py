"""WHAT the cluster should become: the one who watches, recreates, and keeps the cluster's state.

**The idea.** Each store has one supervisor, which compares what is with what should be and takes the next step: a
node that is lost is started again on its directory, a partition that is on its way moves one step on. What it has
decided stands in the register (``cluster.register``), so another supervisor goes on where it stopped. Reads and
writes never wait for it.

**Invariants.**

1. It changes the cluster's state one change at a time, and only what a majority of the nodes let it store (P5).
2. A node is started again on its directory once the former process has ended (P6), and is down only by proof or two
   reporters (P12).
3. A step of a move begins when enough owners know the one before (P4).

Read from the bottom up: ``founding`` (the first state; pure), ``chronicle`` (what happened and why, for people),
``client_counters`` (what clients report), ``watch`` (nodes that are lost come back),
``rebalancing`` (the ring, partition by partition, to its goal, by the states that ``cluster.moves`` makes of one
another), ``members`` (nodes join, leave, take a lost one's place), ``restarting`` (one that is up is restarted, once it
can be spared), ``autoscaling`` (a pure policy) and ``scaling`` (measures the load and does what the policy makes of
it), ``supervisor`` (all of it, and the answers about the store as a whole).

**What is left out.** A standby: while there is no supervisor nothing moves and nothing is recreated, and Ray starts
it again within seconds. Placing processes: the ``Launcher`` port does that.
"""
