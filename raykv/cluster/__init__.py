"""WHAT all agree on: the cluster's state, how it changes, and who answers for it.

Read it bottom-up: ``state`` (ring, members and buckets as one immutable value), ``moves`` (how owners change, state by
state; pure; P4), ``register`` (the state as one register on the nodes' disks; P5), ``peers`` (which run of each node
answers, and how well), ``fanout`` (calls to several nodes at once).
"""
