"""HOW one operation runs: quorum reads and writes over the replicas.

**The idea.** Any process can coordinate: a client for itself, or an actor on behalf of clients. Coordinators share
nothing but the replicas, so there may be thousands. Nearly every operation meets healthy replicas that agree; it takes
the *fast path*, one or two rounds in the caller's own thread. An operation that meets a slow node, a difference or a
move continues on the *quorum path*, which hedges, repairs, restamps and leaves hints. Both paths share the same
judgements: which answers to trust, when a quorum is met, which dot a write has, what is outstanding afterwards.

**Invariants.**

1. W durable acknowledgements of each set of owners make a success (P4), and none of them is of a shadowed write (P7).
2. A write keeps its stamp, or its dot, on either path and across all retries (P8).
3. A read returns what R replicas hold (P9); a scan shows each key once (P15).
4. Every missing acknowledgement leaves a hint (P11).
5. Of a linearizable bucket a read shows what is known to be the last, or its leader reads (L8); a change keeps its lane and
   number however often it is sent, and nothing of it is sent after its deadline (L10, L12).

**An operation is one generator** without a loop: actions out, events in. Read it bottom-up: ``judgements`` (each
judgement once, pure), ``rounds`` (counting, pure), ``steps`` (what an operation asks of its driver), ``nearness``
(which nodes are near, pure), ``supervisor`` (how it is asked), ``routing`` (who owns what), ``write_fanout``,
``reads``, ``writes``, ``scans`` (the quorum path), ``in_flight`` and ``fast_path`` (the healthy case), ``changes``
(linearizable buckets: the way to a leader, and reads that need none), ``coordinator`` (a whole operation). The drivers
lie above: ``driver`` (an event loop: streams, Ray's calls, the simulation) and ``raykv.transport.blocking`` (sockets
of a blocking caller). ``batcher`` (operations that begin together leave together) and ``service`` (frames in, frames
out) are the front; ``latencies`` counts how long an operation takes; ``hint_sender`` delivers the hints that an
operation leaves behind.

Three things remain ``async def`` because each outlives any one operation: fetching cluster updates (``routing``),
delivering hints (``hint_sender``), and administration that asks whole nodes (``Coordinator.repair_partitions``).

**What is left out.** Agreement between coordinators: two of them may stamp two writes of one key at once. The order of
a linearizable bucket is made by the leaders of its partitions, which are nodes (``raykv.replica.leader``). Caches of
values: every read returns what R replicas hold. Queues: past its bounds a coordinator refuses (``Overloaded``).
"""
