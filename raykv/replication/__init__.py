"""HOW copies agree: what a replica answers, and how a coordinator counts the answers.

Read it bottom-up: ``cluster_state`` (what all agree on), ``stamper`` (a node's dots), ``replica`` (its handlers),
``node`` (the shell that waits for the log), ``peers`` and ``fanout`` (calls to nodes), ``quorum`` (counting, pure),
``routing`` (who owns what), ``spreading``, ``reading``, ``writing``, ``scan``, ``coordinator`` (the whole), ``front`` (its
door). It is written over ``raykv.ports`` only, so the same code runs inside Ray actors and in simulation.

Left out so far: hints and hinted handoff, sloppy quorums, Merkle exchange, purge of tombstones, partition transfer.
Replicas that missed a write are mended when the key is next read or scanned.
"""
