"""HOW one operation runs: quorum reads and writes over the replicas.

**The idea.** Any process can coordinate: a client for itself, or an actor for those who leave it to one. Coordinators
share nothing but the replicas, so there may be thousands. Nearly every operation meets healthy replicas that agree;
it takes the *fast path*, one round or two in the caller's own thread. What meets a slow node, a difference or a move
goes over to the *quorum path*, which hedges, repairs, stamps again and leaves hints. Both go by the same judgements:
which answer is believed, when a quorum is met, which dot a write has, what is owed afterwards.

**Invariants.**

1. W durable acknowledgements of each set of owners make a success (P4), and none of them is of a shadowed write (P7).
2. A write keeps its stamp, or its dot, whichever path it takes and however often it is sent (P8).
3. A read returns what R replicas hold (P9); a scan shows each key once (P15).
4. Every acknowledgement that did not come leaves a hint (P11).

**An operation is one generator** without a loop: actions out, events in. Read it bottom-up: ``judgements`` (each judgement
once, pure), ``rounds`` (counting, pure), ``steps`` (what an operation asks of its driver), ``routing`` (who owns what),
``write_fanout``, ``reads``, ``writes``, ``scans`` (the quorum path), ``in_flight`` and ``fast_path`` (an operation while
all is well), ``coordinator`` (the whole of one operation). Over that lie the drivers: ``driver`` (an event loop: streams,
Ray's calls, the simulation) and ``raykv.transport.blocking`` (sockets of a blocking caller). ``batcher`` (operations that
begin together leave together) and ``service`` (frames in, frames out) are the front; ``hint_sender`` carries the hints that
an operation leaves behind.

Three things remain ``async def``, for each outlives any one operation: fetching news from the supervisor (``routing``),
carrying hints (``hint_sender``), and the administration that asks whole nodes (``Coordinator.repair_partitions``).

**What is left out.** Coordinators that agree with each other: nothing here is linearizable, and two of them may stamp
two writes of one key at once. Caches of values: what a read returns comes from R replicas, always. Queues: past its
bounds a coordinator refuses (``Overloaded``).
"""
