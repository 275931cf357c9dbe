"""HOW copies meet again: what a node does by itself, beside answering.

Copies that differ are brought together in four ways, each for what the one before it missed: the coordinator sends a write
again while somebody waits for it (``coordinator.write_fanout``); a node that holds it keeps a hint for one that does not
(``replica.hints``, ``handoff``; P11); a read writes back what some of its answers lacked (``coordinator.reads``; P9); and
each partition is compared by Merkle trees once a day, or when asked (``merkle``, ``anti_entropy``). The last also makes
incomplete nodes complete (P1) and forgets dead records (P10). ``maintenance`` runs all of it, on the node's own records
(``local_copy``), and slower while clients wait (``throttle``).
"""
