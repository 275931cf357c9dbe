"""WHAT all agree on: the cluster's state, how it changes, and who answers for it.

Read it bottom-up: ``state`` (ring, members and buckets as one immutable value), ``moves`` (how owners change, state by
state; pure; P4), ``acceptor`` and ``register`` (the state as one register on the nodes' disks, a node's side and the
supervisor's; P5), ``peers`` (which run of each node answers, and how well), ``fanout`` (calls to several nodes at once).
"""
