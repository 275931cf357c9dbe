"""HOW one operation runs: quorum reads and writes over the replicas.

Read it bottom-up: ``rounds`` (counting, pure), ``routing`` (who owns what), ``write_fanout``, ``reads``, ``writes``,
``scans``, ``coordinator`` (the whole), ``service`` (frames in, frames out). It is written over ``raykv.ports`` only, so
the same code runs inside Ray actors, in clients that coordinate for themselves, and in simulation. Two short cuts lie in
front of it: ``fast_path`` (an operation while all is well) and ``batcher`` (operations that begin together leave
together). ``hint_sender`` carries the hints that an operation leaves behind.
"""
