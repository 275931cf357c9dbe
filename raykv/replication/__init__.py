"""HOW copies agree: what a replica answers, and how a coordinator counts the answers.

Read it bottom-up: ``cluster_state`` (what all agree on), ``stamper`` (a node's dots), ``replica`` (its handlers),
``node`` (the shell that waits for the log), ``peers`` and ``fanout`` (calls to nodes), ``quorum`` (counting, pure),
``routing`` (who owns what), ``spreading``, ``reading``, ``writing``, ``scan``, ``coordinator`` (the whole), ``front`` (its
door). It is written over ``raykv.ports`` only, so the same code runs inside Ray actors, in clients that coordinate for
themselves, and in simulation. Two short cuts lie in front of it: ``straight`` (one key, while all is well) and ``joining``
(operations that begin together leave together).

**Copies that differ** are brought together in four ways, each for what the one before it missed: the coordinator sends a
write again while somebody waits for it (``spreading``); a node that holds it keeps a hint for who does not (``hints``,
``handoff``; P11); a read writes back what some of its answers lacked (``reading``; P9); and each partition is compared by
Merkle trees once a day, or when asked (``merkle``, ``anti_entropy``). The last also makes incomplete nodes whole (P1) and
forgets dead records (P10). A node does this by itself (``upkeep``), on its own records (``local_copy``), and slower while
clients wait (``throttle``).

**Who owns what changes** by states that follow from one another (``moves``, pure; P4); who brings them about is
``raykv.supervision``. ``load`` counts what a node is asked, for the autoscaler.
"""
