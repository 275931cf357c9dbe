"""WHAT the cluster should become: the one who watches, recreates, and keeps the cluster's state.

``register`` holds the state on the nodes' disks, by majority (P5); ``founding`` makes the first one; ``supervisor``
watches the storage nodes and brings back those that are dead or not answering (P6, P12), and hands out news. Reads and
writes never wait for it.

``rebalancing`` brings the ring to where it is to be when a node joins, leaves or is to carry more: partition by partition,
by the states that ``replication.moves`` makes of one another (P4).

Left out so far: replacing a node whose host is gone without being told to, autoscaling, cold start over several hosts.
"""
