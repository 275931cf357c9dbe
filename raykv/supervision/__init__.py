"""WHAT the cluster should become: the one who watches, recreates, and keeps the cluster's state.

``register`` holds the state on the nodes' disks, by majority (P5); ``founding`` makes the first one; ``supervisor``
watches the storage nodes and brings back those that are dead or not answering (P6, P12), and hands out news. Reads and
writes never wait for it.

Left out so far: adding, removing and replacing nodes, moving partitions, autoscaling, cold start over several hosts.
"""
