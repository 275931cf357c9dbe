"""WHAT the cluster should become: the one who watches, recreates, and keeps the cluster's state.

``register`` holds the state on the nodes' disks, by majority (P5); ``founding`` makes the first one; ``supervisor``
founds a store or brings it back, and answers for it; ``watch`` brings back the nodes that are dead or do not answer
(P6, P12). Reads and writes never wait for any of them.

``members`` lets nodes join, leave and take a lost one's place; ``rebalancing`` then brings the ring to where it is to be,
partition by partition, by the states that ``cluster.moves`` makes of one another (P4).

``scaling`` measures the load and does what ``autoscaling``, a pure policy, makes of it.
"""
