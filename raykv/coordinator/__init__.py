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

Read from the bottom up: ``rounds`` (counting; pure), ``routing`` (who owns what), ``write_fanout``, ``reads``,
``writes`` and ``scans`` (the quorum path), ``fast_path``, ``coordinator`` (the whole), ``batcher`` (operations that
begin together leave together), ``hint_sender``, ``service`` (frames in, frames out).

**What is left out.** Coordinators that agree with each other: nothing here is linearizable, and two of them may stamp
two writes of one key at once. Caches of values: what a read returns comes from R replicas, always. Queues: past its
bounds a coordinator refuses (``Overloaded``).
"""
