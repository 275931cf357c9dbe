"""Small programs on linearizable buckets, to copy: each on the public face alone, and tested while nodes fail.

They await (``store.aio``); without ``async`` and ``await`` the same lines work on a blocking handle. Each file runs by
itself, ``python scripts/recipes/barrier.py``, on a store that it starts.
"""
